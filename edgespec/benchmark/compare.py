"""Two runs of `bench` over the same prompts: is one faster than the other?"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgespec.benchmark.intervals import Interval, Totals, bootstrap
from edgespec.benchmark.report import Report
from edgespec.errors import UsageError

Verdict = Literal["faster", "slower", "no difference", "one prompt"]
Basis = Literal["speed-up", "speed"]

_PLACE = ("machine", "system", "device", "threads", "onnxruntime")
"""Where these differ, plain decoding is another too, and speed-ups say nothing about each other."""
_COLUMNS = ("tokens", "spec_tps", "plain_tokens", "plain_tps")


@dataclass(frozen=True, slots=True)
class Ratio:
    """B's figure over A's, prompt by prompt the same; `interval` 95 %, None for a single prompt."""

    prompts: int
    a: float
    b: float
    ratio: float
    interval: Interval | None

    @property
    def verdict(self) -> Verdict:
        """What the interval allows to be said."""
        if self.interval is None:
            return "one prompt"
        low, high = self.interval
        return "faster" if low > 1.0 else "slower" if high < 1.0 else "no difference"


@dataclass(frozen=True, slots=True)
class Comparison:
    """basis: what is compared. "speed-up", each run against its own plain decoding, so that what else the machine did
    does not count; or tokens per second where the runs had other machines, devices, threads or runtimes. differences:
    what the environments do not share, as (name, A's, B's)."""

    basis: Basis
    differences: tuple[tuple[str, Any, Any], ...]
    overall: Ratio
    categories: dict[str, Ratio]


def read_report(path: Path) -> Report:
    """What `bench --json` wrote. Raises: UsageError."""
    try:
        report: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read ({error}); --compare takes what `bench --json` printed.") from error
    try:
        figures = [float(row[column]) for row in report["rows"] for column in _COLUMNS]
        named = all({"question_id", "category"} <= row.keys() for row in report["rows"])
        if not (named and figures and all(0.0 < value < math.inf for value in figures)):
            raise ValueError("not a run's rows")
        _ = report["environment"]["model"], report["environment"]["prompts"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{path} is not what this version's `bench --json` prints; run it again to compare."
        ) from error
    return report


def compare(a: Report, b: Report) -> Comparison:
    """How B does against A. Raises: UsageError unless both ran the same model on the same prompts."""
    ours, theirs = a["environment"], b["environment"]
    if ours["model"] != theirs["model"]:
        raise UsageError(f"the runs are of two models, {ours['model']} and {theirs['model']}; compare runs of one.")
    rows = {str(row["question_id"]): row for row in a["rows"]}
    others = {str(row["question_id"]): row for row in b["rows"]}
    if ours["prompts"] != theirs["prompts"] or rows.keys() != others.keys():
        raise UsageError("the runs answered different prompts; give both the same --prompts, --limit and --ctx-size.")
    names = dict.fromkeys([*ours, *theirs])
    differences = tuple((n, ours.get(n), theirs.get(n)) for n in names if ours.get(n) != theirs.get(n))
    basis: Basis = "speed" if any(ours.get(n) != theirs.get(n) for n in _PLACE) else "speed-up"
    pairs = [(row, others[name]) for name, row in rows.items()]
    categories = dict.fromkeys(str(row["category"]) for row in rows.values())
    return Comparison(
        basis,
        differences,
        _ratio(pairs, basis),
        {name: _ratio([p for p in pairs if str(p[0]["category"]) == name], basis) for name in categories},
    )


def _ratio(pairs: list[tuple[dict[str, Any], dict[str, Any]]], basis: Basis) -> Ratio:
    parts = np.array([(*_times(a), *_times(b)) for a, b in pairs])
    figure: Callable[[Totals], Totals] = _speedup if basis == "speed-up" else _speed

    def ratio(totals: Totals) -> Totals:
        return figure(totals[4:]) / figure(totals[:4])

    totals = parts.sum(axis=0)
    a, b = float(figure(totals[:4])), float(figure(totals[4:]))
    return Ratio(len(pairs), a, b, b / a, bootstrap(parts, ratio))


def _times(row: dict[str, Any]) -> tuple[float, float, float, float]:
    """Tokens and seconds of the speculative runs, then of the plain ones."""
    tokens, speed, plain_tokens, plain_speed = (float(row[column]) for column in _COLUMNS)
    return tokens, tokens / speed, plain_tokens, plain_tokens / plain_speed


def _speed(totals: Totals) -> Totals:
    return totals[0] / totals[1]


def _speedup(totals: Totals) -> Totals:
    return (totals[0] / totals[1]) / (totals[2] / totals[3])
