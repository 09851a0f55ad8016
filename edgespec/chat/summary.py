"""An answer's figures in one line, for the command line and the screen alike."""

from __future__ import annotations

from typing import Final

from edgespec.chat.events import Answer

ENDINGS: Final = {"stop": "", "cancelled": "(stopped) · ", "length": "(cut off at the length limit) · "}
"""What is said before the figures of an answer that did not end by itself, by its finish reason."""


def summarize(answer: Answer) -> str:
    """Such as `214 tok · 83.4 tok/s · first 0.42 s · 68 % accepted (167/246) · 2.9 tok/round`."""
    stats = answer.stats
    parts = [f"{len(answer.tokens)} tok"]
    if answer.tokens_per_second is not None:
        parts.append(f"{answer.tokens_per_second:.1f} tok/s")
        parts.append(f"first {answer.ttft_ms / 1e3:.2f} s")
    if stats.acceptance is not None and stats.tokens_per_round is not None:
        parts.append(f"{stats.acceptance:.0%} accepted ({stats.accepted}/{stats.tested})".replace("%", " %"))
        parts.append(f"{stats.tokens_per_round:.1f} tok/round")
    return " · ".join(parts)


def in_words(answer: Answer) -> str:
    """For whoever listens to it: `214 tokens, 83.4 per second, the first after 0.42 seconds, 68 percent of what was
    tested accepted`."""
    parts = [f"{len(answer.tokens)} tokens"]
    if answer.tokens_per_second is not None:
        parts.append(f"{answer.tokens_per_second:.1f} per second")
        parts.append(f"the first after {answer.ttft_ms / 1e3:.2f} seconds")
    if answer.stats.acceptance is not None:
        parts.append(f"{answer.stats.acceptance * 100:.0f} percent of what was tested accepted")
    return ", ".join(parts)
