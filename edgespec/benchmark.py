"""Plain against speculative decoding: the same prompts, interleaved in one process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgespec.chat.events import Answer
from edgespec.chat.session import Chat, Settings
from edgespec.decoding.protocols import Policy
from edgespec.decoding.stats import Stats
from edgespec.errors import ContextFullError, UsageError

BUILT_IN = Path(__file__).with_name("prompts.jsonl")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation's user turns, in Spec-Bench's format (Xia et al. 2024)."""

    question_id: str
    category: str
    turns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt's figures, over all turns and repetitions; `tokens` are those of the speculative runs. Speeds are
    tokens per second of decoding, without the prompt."""

    question_id: str
    category: str
    tokens: int
    plain_tokens: int
    plain_ms: float
    spec_ms: float
    stats: Stats
    same_text: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """Totals over some rows: speeds are all tokens over all time, and `speedup` is their ratio."""

    plain_tps: float
    spec_tps: float
    speedup: float
    acceptance: float | None
    tokens_per_round: float | None
    same_text: float


def read_prompts(path: Path = BUILT_IN, limit: int | None = None) -> list[Prompt]:
    """Read JSON lines with question_id, category and turns; at most `limit` of a category. Raises: UsageError."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # a JSON string may hold what else splitlines splits at
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}); --prompts takes a file of JSON lines.") from error
    found: list[Prompt] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            prompt = _prompt(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"line {number} of {path} is no prompt; it needs question_id, category and a list of turns."
            ) from error
        seen[prompt.category] = seen.get(prompt.category, 0) + 1
        if limit is None or seen[prompt.category] <= limit:
            found.append(prompt)
    if not found:
        raise UsageError(f"{path} holds no prompts.")
    return found


def _prompt(entry: dict[str, Any]) -> Prompt:
    turns: Any = entry["turns"]
    if not isinstance(turns, list) or not turns:
        raise TypeError("turns must be a list")
    return Prompt(str(entry["question_id"]), str(entry["category"]), tuple(map(str, turns)))


def measure(
    chat: Chat, prompts: Sequence[Prompt], *, repeat: int = 1, progress: Callable[[float], None]
) -> Iterator[Row]:
    """One row per prompt: plain at its fastest, which is without exact mode, against the chat as it is set up.

    Which of the two goes first alternates. In exact mode the texts are compared with a third, untimed run, plain in
    exact mode: its passes of two rows add in another order than those of one, so plain at its fastest may differ.
    Turns from the first that does not fit the context on are left out, and so is a prompt of which none fits.
    """
    policy, settings = chat.policy, chat.settings
    fastest = dataclasses.replace(settings, exact=False)
    _converse(chat, None, fastest, prompts[0])  # warm-up
    for i, prompt in enumerate(prompts):
        plain, spec = _Run(None, fastest), _Run(policy, settings)
        for j in range(repeat):
            for run in (plain, spec) if (i + j) % 2 == 0 else (spec, plain):
                run.answer(chat, prompt)
        progress((i + 1) / len(prompts))
        if not spec.answers:
            continue
        reference = _converse(chat, None, settings, prompt) if settings.exact_mode else plain.answers
        yield Row(
            question_id=prompt.question_id,
            category=prompt.category,
            tokens=spec.tokens,
            plain_tokens=plain.tokens,
            plain_ms=plain.ms,
            spec_ms=spec.ms,
            stats=spec.stats,
            same_text=[a.tokens for a in spec.answers] == [a.tokens for a in reference],
        )
    chat.use(policy, settings)


@dataclass(slots=True)
class _Run:
    """One of the two ways to decode, and what its runs of a prompt took. `answers` are the last run's."""

    policy: Policy | None
    settings: Settings
    tokens: int = 0
    ms: float = 0.0
    stats: Stats = field(default_factory=Stats)
    answers: list[Answer] = field(default_factory=list[Answer])

    def answer(self, chat: Chat, prompt: Prompt) -> None:
        self.answers = _converse(chat, self.policy, self.settings, prompt)
        for answer in self.answers:
            self.tokens += len(answer.tokens)
            self.ms += answer.predicted_ms
            self.stats.merge(answer.stats)


def _converse(chat: Chat, policy: Policy | None, settings: Settings, prompt: Prompt) -> list[Answer]:
    """A new conversation. The chat's caches keep what it shares with the one before: the prompt is read once."""
    chat.use(policy, settings)
    chat.messages = [m for m in chat.messages if m.role == "system"]
    answers: list[Answer] = []
    with contextlib.suppress(ContextFullError):
        for turn in prompt.turns:
            answers += [event for event in chat.send(turn) if isinstance(event, Answer)]
    return answers


def summarize(rows: Iterable[Row]) -> Summary:
    """Add rows up. Raises: UsageError if no token was decoded."""
    rows = list(rows)
    tokens, plain_tokens = sum(r.tokens for r in rows), sum(r.plain_tokens for r in rows)
    spec_ms, plain_ms = sum(r.spec_ms for r in rows), sum(r.plain_ms for r in rows)
    if not (tokens and plain_tokens):
        raise UsageError("No prompt fits the context: raise --ctx-size.")
    stats = [r.stats for r in rows]
    tested, rounds = sum(s.tested for s in stats), sum(s.rounds for s in stats)
    plain_tps, spec_tps = plain_tokens / plain_ms * 1e3, tokens / spec_ms * 1e3
    return Summary(
        plain_tps=plain_tps,
        spec_tps=spec_tps,
        speedup=spec_tps / plain_tps,
        acceptance=sum(s.accepted for s in stats) / tested if tested else None,
        tokens_per_round=tokens / rounds if rounds else None,
        same_text=sum(r.same_text for r in rows) / len(rows),
    )
