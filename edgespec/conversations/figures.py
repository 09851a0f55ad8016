"""An answer's figures, as they are kept beside its text."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, fields
from typing import Any

from edgespec.chat.events import Answer
from edgespec.chat.summary import ENDINGS, summarize
from edgespec.conversations.conversation import Entry
from edgespec.decoding.stats import PositionStats, Stats

_KEPT = ("prompt_tokens", "prompt_n", "prompt_ms", "ttft_ms", "predicted_ms", "exact")


def to_figures(answer: Answer, marks: str = "") -> dict[str, Any]:
    """What json can keep of an answer, its text and ids apart. marks: its rounds', joined."""
    return {name: getattr(answer, name) for name in _KEPT} | {
        "stats": asdict(answer.stats) | {"arms": dict(answer.stats.arms)},
        "marks": marks,
    }


def marks_of(entry: Entry) -> str:
    """Where each token of an entry came from, by `Round.marks`; empty where that was not kept."""
    marks = (entry.figures or {}).get("marks")
    return marks if isinstance(marks, str) else ""


def to_answer(entry: Entry) -> Answer | None:
    """The Answer that an entry was made of; None for one that broke off, or whose figures are damaged."""
    figures = entry.figures
    if figures is None or entry.finish not in ("stop", "length", "cancelled"):
        return None
    try:
        kept: dict[str, Any] = dict(figures["stats"])
        stats = Stats(**{f.name: kept[f.name] for f in fields(Stats)})
        stats.arms = Counter(kept["arms"])
        stats.per_position = [PositionStats(**position) for position in kept["per_position"]]
        return Answer(
            text=entry.text,
            tokens=entry.ids,
            finish_reason=entry.finish,
            stats=stats,
            **{name: figures[name] for name in _KEPT},
        )
    except (KeyError, TypeError, ValueError):
        return None


def footer(entry: Entry) -> str:
    """What stands under an answer: how it ended, if not by itself, and what it cost, if that is known."""
    if entry.finish not in ENDINGS:
        return "(broken off)"
    answer = to_answer(entry)
    return ENDINGS[entry.finish] + (summarize(answer) if answer else "figures unknown")
