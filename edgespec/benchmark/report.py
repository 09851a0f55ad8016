"""A run of `bench` as one object, for --json, --csv, --plot and --compare."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from edgespec.benchmark.measure import Row
from edgespec.benchmark.summary import Summary, by_category, summarize
from edgespec.benchmark.trace import STRIDE, Trace
from edgespec.decoding.costs import Costs
from edgespec.decoding.stats import Stats
from edgespec.errors import UsageError

Report = dict[str, Any]


def make_report(environment: dict[str, Any], rows: Sequence[Row], costs: Costs | None) -> Report:
    """environment: what ran, and where. costs: what was measured of passes and drafts, None without a controller.
    Raises: UsageError if no token was decoded."""
    trace = Trace()
    for row in rows:
        trace.merge(row.trace)
    return {
        "environment": environment,
        "rows": [_row(row) for row in rows],
        "summary": {
            "overall": _figures(summarize(rows)),
            "categories": {name: _figures(summarize(of_it)) for name, of_it in by_category(rows).items()},
        },
        "arms": {arm: _arm(stats) for arm, stats in trace.arms.items()},
        "tokens_by_arm": {"stride": STRIDE, "tokens": trace.tokens},
        "costs": None if costs is None else costs.to_json(),
    }


def _row(row: Row) -> dict[str, Any]:
    figures = _figures(summarize([row]))
    del figures["speedup_interval"]
    return {
        "question_id": row.question_id,
        "category": row.category,
        "tokens": row.tokens,
        "plain_tokens": row.plain_tokens,
        **figures,
        "same_text": row.same_text,
    }


def _figures(summary: Summary) -> dict[str, Any]:
    """Energy that was not measured is left out."""
    figures = dataclasses.asdict(summary)
    return {
        name: value for name, value in figures.items() if value is not None or not name.endswith("joules_per_token")
    }


def _arm(stats: Stats) -> dict[str, Any]:
    return {
        "rounds": stats.rounds,
        "tokens": stats.emitted,
        "proposed": stats.proposed,
        "tested": stats.tested,
        "accepted": stats.accepted,
        "per_position": [dataclasses.asdict(position) for position in stats.per_position],
    }


def require_writable(path: Path) -> None:
    """Before anything takes long: whether a file can be written there. Raises: UsageError."""
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); name another file.") from error
    if not existed:
        path.unlink()


def write_csv(report: Report, file: TextIO) -> None:
    """One line per prompt, with a heading."""
    writer = csv.DictWriter(file, fieldnames=list(report["rows"][0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(report["rows"])
