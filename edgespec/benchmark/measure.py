"""Plain against speculative decoding: the same prompts, interleaved in one process."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from edgespec.benchmark.prompts import Prompt
from edgespec.benchmark.trace import Trace
from edgespec.chat.events import Answer, Event, TextDelta
from edgespec.chat.session import Chat, Settings
from edgespec.decoding.protocols import Policy
from edgespec.decoding.stats import Stats
from edgespec.errors import ContextFullError

Joules = Callable[[], float]
"""The energy used so far; only differences mean something."""


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt's figures, over all turns and repetitions; `tokens` are those of the speculative runs. Speeds and
    energy (joules, None where the machine does not tell) are those of decoding, without the prompt."""

    question_id: str
    category: str
    tokens: int
    plain_tokens: int
    plain_ms: float
    spec_ms: float
    stats: Stats
    same_text: bool
    trace: Trace = field(default_factory=Trace)
    plain_joules: float | None = None
    spec_joules: float | None = None


def measure(
    chat: Chat,
    prompts: Sequence[Prompt],
    *,
    repeat: int = 1,
    progress: Callable[[float], None],
    joules: Joules | None = None,
) -> Iterator[Row]:
    """One row per prompt: plain at its fastest, which is without exact mode, against the chat as it is set up.

    Both answer the first prompt once before anything is timed. Then which of the two goes first alternates. In exact
    mode the texts are compared with a third, untimed run, plain in exact mode: its passes of two rows add in another
    order than those of one, so plain at its fastest may differ. Turns from the first that does not fit the context on
    are left out, and so is a prompt of which none fits.
    """
    policy, settings = chat.policy, chat.settings
    fastest = dataclasses.replace(settings, exact=False)
    for warm_up in (_Run(None, fastest), _Run(policy, settings)):
        warm_up.answer(chat, prompts[0], None)
    for i, prompt in enumerate(prompts):
        plain, spec = _Run(None, fastest), _Run(policy, settings)
        for j in range(repeat):
            for run in (plain, spec) if (i + j) % 2 == 0 else (spec, plain):
                run.answer(chat, prompt, joules)
        progress((i + 1) / len(prompts))
        if not spec.answers:
            continue
        reference = plain
        if settings.exact_mode:
            reference = _Run(None, settings)
            reference.answer(chat, prompt, None)
        yield Row(
            question_id=prompt.question_id,
            category=prompt.category,
            tokens=spec.tokens,
            plain_tokens=plain.tokens,
            plain_ms=plain.ms,
            spec_ms=spec.ms,
            stats=spec.stats,
            same_text=[a.tokens for a in spec.answers] == [a.tokens for a in reference.answers],
            trace=spec.trace,
            plain_joules=plain.joules if joules else None,
            spec_joules=spec.joules if joules else None,
        )
    chat.use(policy, settings)


@dataclass(slots=True)
class _Run:
    """One of the two ways to decode, and what its runs of a prompt took. `answers` are the last run's."""

    policy: Policy | None
    settings: Settings
    tokens: int = 0
    ms: float = 0.0
    joules: float = 0.0
    stats: Stats = field(default_factory=Stats)
    trace: Trace = field(default_factory=Trace)
    answers: list[Answer] = field(default_factory=list[Answer])

    def answer(self, chat: Chat, prompt: Prompt, joules: Joules | None) -> None:
        joules = joules or (lambda: 0.0)
        self.answers = []
        position, before = 0, joules()
        for event in converse(chat, self.policy, self.settings, prompt):
            if isinstance(event, TextDelta):
                self.trace.add(position, event.round)
                position += len(event.round.tokens)
                continue
            now = joules()
            if isinstance(event, Answer):
                self.joules += now - before
                self.answers.append(event)
                self.tokens += len(event.tokens)
                self.ms += event.predicted_ms
                self.stats.merge(event.stats)
                position = 0
            before = now  # what reading the prompt took is left out


def converse(chat: Chat, policy: Policy | None, settings: Settings, prompt: Prompt) -> Iterator[Event]:
    """A new conversation, up to the turn that does not fit the context. The chat's caches keep what it shares with the
    one before: the prompt is read once."""
    chat.use(policy, settings)
    chat.messages = [m for m in chat.messages if m.role == "system"]
    with contextlib.suppress(ContextFullError):
        for turn in prompt.turns:
            yield from chat.send(turn)
