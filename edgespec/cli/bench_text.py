"""What `bench` prints for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from edgespec.benchmark.compare import Comparison, Ratio
from edgespec.benchmark.intervals import Interval
from edgespec.benchmark.report import Report
from edgespec.benchmark.self_test import ALARM, ANSWERS, POSITIONS, SameBytes, SelfTest
from edgespec.chat.session import Chat
from edgespec.cli.output import clean

_NONE = "–"


def table(report: Report) -> str:
    """A line for each category and one for all."""
    environment, summary = report["environment"], report["summary"]
    lines = {**summary["categories"], "all": summary["overall"]}
    columns = [
        ("plain", [f"{s['plain_tps']:.1f}" for s in lines.values()]),
        ("spec", [f"{s['spec_tps']:.1f}" for s in lines.values()]),
        ("speed-up", [f"{s['speedup']:.2f}x" for s in lines.values()]),
        ("95 %", [_interval(s["speedup_interval"]) for s in lines.values()]),
        ("accepted", [_or_none(s["acceptance"], ".0%") for s in lines.values()]),
        ("tok/round", [_or_none(s["tokens_per_round"], ".2f") for s in lines.values()]),
        ("same text", [f"{s['same_text']:.0%}" for s in lines.values()]),
    ]
    legend = "plain, spec: tokens per second of decoding; same text: share of prompts"
    if "plain_joules_per_token" in summary["overall"]:
        columns += [
            (f"{name} J/tok", [_or_none(s.get(f"{name}_joules_per_token"), ".3f") for s in lines.values()])
            for name in ("plain", "spec")
        ]
        legend += f"; J/tok: joules per token, {environment['energy']}"
    mode = "exact" if environment["exact"] else "not exact"
    title = (
        f"{environment['model']} with {environment['draft'] or 'no draft'}, {mode}, {environment['threads']} threads"
    )
    return "\n".join([title, *_columns(lines, columns), legend])


def comparison(found: Comparison) -> str:
    """A line for each category and one for all, and the verdict in words."""
    lines = {**found.categories, "all": found.overall}
    what = "speed-up over plain decoding" if found.basis == "speed-up" else "tokens per second"
    columns = [
        ("A", [f"{r.a:.2f}" for r in lines.values()]),
        ("B", [f"{r.b:.2f}" for r in lines.values()]),
        ("B/A", [f"{r.ratio:.3f}" for r in lines.values()]),
        ("95 %", [_interval(r.interval) for r in lines.values()]),
        ("prompts", [str(r.prompts) for r in lines.values()]),
        ("B is", [r.verdict for r in lines.values()]),
    ]
    differences = [f"{name}: {_show(a)} | {_show(b)}" for name, a, b in found.differences]
    return "\n".join([f"compared: {what}", *differences, *_columns(lines, columns), _verdict(found.overall)])


def _verdict(overall: Ratio) -> str:
    change = f"{abs(overall.ratio - 1.0):.1%}"
    match overall.verdict:
        case "faster" | "slower" as verdict:
            return f"B is {verdict} than A, by {change}"
        case "no difference":
            return f"no difference between A and B that these prompts could show ({change} is within the interval)"
        case "one prompt":
            return "one prompt shows no difference; compare runs of several"


def self_test(chat: Chat, found: SelfTest, seed: int) -> str:
    """What was tested, and the verdict."""
    lines = [f"{chat.model} with {chat.draft}, seed {seed}"]
    if found.same_bytes:
        lines.append("The same bytes as plain decoding at temperature 0, in exact mode:")
        lines += _columns(
            [test.way for test in found.same_bytes],
            [
                ("k", [str(test.k) for test in found.same_bytes]),
                ("proposed", [str(test.proposed) for test in found.same_bytes]),
                ("accepted", [str(test.accepted) for test in found.same_bytes]),
                ("same", [_same(test) for test in found.same_bytes]),
            ],
        )
    else:
        lines.append("Exact mode is off, so the bytes may depend on the draft, and were not compared.")
    lines.append(f"The same distribution at temperature 1, {ANSWERS} answers of {POSITIONS} tokens each way:")
    tests = found.same_distribution
    lines += _columns(
        [test.way for test in tests],
        [
            ("proposed", [str(test.proposed) for test in tests]),
            ("accepted", [str(test.accepted) for test in tests]),
            ("p", [f"{test.p:.4f}" for test in tests]),
            ("same", ["yes" if test.p >= found.limit else "NO" for test in tests]),
        ],
    )
    lines.append(f"NO where p < {found.limit:.4f}, which a lossless pair meets in {ALARM:.0%} of self-tests.")
    lines.append(
        "lossless: nothing here tells speculative from plain decoding"
        if found.lossless
        else "NOT lossless: see NO above"
    )
    return "\n".join(lines)


def _same(test: SameBytes) -> str:
    return "yes" if test.prompt is None else f"NO (prompt {clean(test.prompt)})"


def _columns(names: Iterable[str], columns: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Right-aligned columns behind the names of the lines."""
    names = [clean(name) for name in names]
    first = max(20, *(len(name) for name in names)) if names else 20
    widths = [max(len(heading), *map(len, cells)) + 2 for heading, cells in columns]
    rows = [("", [heading for heading, _ in columns])]
    rows += [(name, [cells[i] for _, cells in columns]) for i, name in enumerate(names)]
    return [
        f"{name:{first}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in rows
    ]


def _interval(interval: Interval | list[float] | None) -> str:
    return _NONE if interval is None else f"{interval[0]:.2f}–{interval[1]:.2f}"


def _or_none(value: float | None, form: str) -> str:
    return _NONE if value is None else format(value, form)


def _show(value: Any) -> str:
    return _NONE if value is None else clean(str(value))
