"""What the rows of a run come to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

import numpy as np

from edgespec.benchmark.intervals import Interval, Totals, bootstrap
from edgespec.benchmark.measure import Row
from edgespec.errors import UsageError


@dataclass(frozen=True, slots=True)
class Summary:
    """Totals over some rows: speeds are all tokens over all time, and `speedup` is their ratio, with the 95 % interval
    that the choice of prompts leaves (None for one row). Energy is joules, None where the machine does not tell."""

    plain_tps: float
    spec_tps: float
    speedup: float
    speedup_interval: Interval | None
    acceptance: float | None
    tokens_per_round: float | None
    same_text: float
    plain_joules_per_token: float | None = None
    spec_joules_per_token: float | None = None


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
    parts = np.array([(r.tokens, r.spec_ms, r.plain_tokens, r.plain_ms) for r in rows])
    return Summary(
        plain_tps=plain_tps,
        spec_tps=spec_tps,
        speedup=spec_tps / plain_tps,
        speedup_interval=bootstrap(parts, _speedup),
        acceptance=sum(s.accepted for s in stats) / tested if tested else None,
        tokens_per_round=tokens / rounds if rounds else None,
        same_text=sum(r.same_text for r in rows) / len(rows),
        plain_joules_per_token=_per_token([r.plain_joules for r in rows], plain_tokens),
        spec_joules_per_token=_per_token([r.spec_joules for r in rows], tokens),
    )


def _speedup(totals: Totals) -> Totals:
    tokens, ms, plain_tokens, plain_ms = totals
    return (tokens / ms) / (plain_tokens / plain_ms)


def _per_token(joules: list[float | None], tokens: int) -> float | None:
    known = [j for j in joules if j is not None and isfinite(j)]
    return sum(known) / tokens if len(known) == len(joules) else None


def by_category(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each category, in the order in which the categories appear."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.category, []).append(row)
    return found
