"""What a turn tells whoever listens: CLI, TUI and server live on these three events."""

from __future__ import annotations

from dataclasses import dataclass

from edgespec.decoding.stats import FinishReason, Round, Stats


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """`done` of the `total` prompt tokens that were not in the cache already have been processed."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What one round added: the text that can be shown now (may be empty: half a character, or what could become a
    stop string, is held back) and the round itself."""

    text: str
    round: Round


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a turn. `text` is all of the answer: it equals the deltas joined.

    `tokens` are the answer's ids, an end-of-text token included. Times are milliseconds: `prompt_ms` the prefill of
    `prompt_n` tokens (of `prompt_tokens` in all; the last is read by the first round, the rest were in the cache),
    `ttft_ms` from `send` to the first token, `predicted_ms` from the end of prefill to the last token.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    prompt_n: int
    prompt_ms: float
    ttft_ms: float
    predicted_ms: float
    exact: bool
    stats: Stats

    @property
    def tokens_per_second(self) -> float | None:
        """Decoding speed without the prompt; None for an answer without tokens."""
        return len(self.tokens) / self.predicted_ms * 1e3 if self.tokens and self.predicted_ms > 0 else None


Event = PromptProgress | TextDelta | Answer
