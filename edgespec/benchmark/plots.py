"""A run of `bench` as a picture. matplotlib is an extra, imported here only.

Colours are those of Okabe and Ito (2008), which colour-blind people tell apart; lines also differ in marker and dash,
areas in hatching and grey, so that the picture survives a printer without colour.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespec.benchmark.report import Report
from edgespec.decoding.costs import Costs
from edgespec.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE, _ORANGE, _GREEN, _PURPLE, _RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00"
_LINES = ((_BLUE, "o", "-"), (_RED, "s", "--"), (_GREEN, "^", "-."), (_PURPLE, "D", ":"))
_AREAS = ((_BLUE, "//"), (_ORANGE, ".."), (_GREEN, "xx"), (_PURPLE, "\\\\"))
_PLAIN = ("#D0D0D0", "")
_FORMATS = (".svg", ".png")
_SEEN = 10
"""Proposals that must have been tested at a position for its acceptance to be drawn."""


def require_plots(path: Path) -> None:
    """Raises: UsageError if a picture cannot be drawn, or not into a file of that name."""
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(f"{path.name} has to end in .svg or .png.")
    if find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib; install it with `pip install 'edgespec[plot]'`.")


def draw_report(report: Report, path: Path) -> None:
    """Draw speed-ups, acceptance, the cost of a pass and the choice of arms into one file. Raises: UsageError."""
    require_plots(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "edgespec"}):
        height = 7.0 + 0.16 * max(len(report["summary"]["categories"]) - 8, 0)
        figure = Figure(figsize=(11.0, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
        (speed, acceptance), (cost, arms) = figure.subplots(2, 2)
        figure.suptitle(_title(report["environment"]), fontsize=11)
        _draw_speedups(speed, report)
        _draw_acceptance(acceptance, report["arms"])
        _draw_costs(cost, report["costs"])
        _draw_arms(arms, report["tokens_by_arm"])
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)


def _title(environment: dict[str, Any]) -> str:
    mode = "exact mode" if environment["exact"] else "not exact"
    heat = f"temperature {environment['temperature']:g}"
    where = f"{environment['device']}, {environment['threads']} threads, ONNX Runtime {environment['onnxruntime']}"
    return f"{environment['model']} with {environment['draft'] or 'no draft'}, {heat}, {mode}  ({where})"


def _draw_speedups(axes: Axes, report: Report) -> None:
    lines = {**report["summary"]["categories"], "all": report["summary"]["overall"]}
    names, top = list(lines), 1.0
    for y, (name, figures) in enumerate(lines.items()):
        speedup, interval = figures["speedup"], figures["speedup_interval"]
        colour = "black" if name == "all" else _BLUE
        if interval:
            axes.plot(interval, (y, y), color=colour, linewidth=1.8, solid_capstyle="butt")
            top = max(top, interval[1])
        axes.plot(speedup, y, "D" if name == "all" else "o", color=colour, markersize=6)
        axes.annotate(f"{speedup:.2f}", (1.0, y), xycoords=("axes fraction", "data"), ha="right", va="center")
        top = max(top, speedup)
    axes.axvline(1.0, color="#606060", linewidth=1.0, linestyle="--")
    axes.set_xlim(right=axes.get_xlim()[0] + (top - axes.get_xlim()[0]) * 1.15)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color="#E0E0E0")
    axes.set_axisbelow(True)
    axes.set_title("Speed-up over plain decoding, with 95 % intervals")
    axes.set_xlabel("times as many tokens per second as plain (dashed line: plain)")


def _draw_acceptance(axes: Axes, arms: dict[str, Any]) -> None:
    drawn = 0
    for name, arm in arms.items():
        seen = [(i, p["accepted"] / p["tested"]) for i, p in enumerate(arm["per_position"], 1) if p["tested"] >= _SEEN]
        if not seen:
            continue
        colour, marker, dash = _LINES[drawn % len(_LINES)]
        axes.plot(
            *zip(*seen, strict=True),
            color=colour,
            marker=marker,
            linestyle=dash,
            label=f"{name} ({arm['tested']} tested)",
        )
        drawn += 1
    axes.set_ylim(0.0, 1.05)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_title("Acceptance by position in the draft")
    axes.set_xlabel("position (tested only if all before were accepted)")
    axes.set_ylabel("accepted / tested")
    axes.grid(color="#E0E0E0")
    if drawn:
        _count_along(axes)
        axes.legend(loc="best")
    else:
        _say_instead(axes, "nothing was proposed")


def _draw_costs(axes: Axes, found: dict[str, Any] | None) -> None:
    axes.set_title("Cost of a pass, V(rows), as measured at the start")
    axes.set_xlabel("rows of the pass")
    axes.set_ylabel("time / time of one row")
    if found is None:
        _say_instead(axes, "not measured without a draft")
        return
    costs = Costs.from_json(found)
    rows = range(1, costs.k_max + 2)
    for context, passes, (colour, marker, dash) in zip(costs.contexts, costs.passes, _LINES, strict=False):
        label = f"context {context}: one row {passes[0]:.1f} ms"
        axes.plot(rows, [t / passes[0] for t in passes], color=colour, marker=marker, linestyle=dash, label=label)
    top = max(t / passes[0] for passes in costs.passes for t in passes)
    axes.plot(rows, rows, color="#909090", linewidth=1.0, linestyle=(0, (1, 2)), label="row by row")
    axes.set_ylim(0.8, top * 1.15)
    _count_along(axes)
    axes.grid(color="#E0E0E0")
    axes.legend(loc="best")


def _draw_arms(axes: Axes, found: dict[str, Any]) -> None:
    stride, tokens = found["stride"], found["tokens"]
    length = max(map(len, tokens.values()))
    counts = {name: [*t, *[0] * (length - len(t))] for name, t in tokens.items()}
    totals = [sum(column) for column in zip(*counts.values(), strict=True)]
    ordered = sorted(counts, key=lambda name: name != "plain")
    looks = iter(_AREAS * len(counts))
    below = [0.0] * length
    for name in ordered:
        colour, hatch = _PLAIN if name == "plain" else next(looks)
        shares = [n / total for n, total in zip(counts[name], totals, strict=True)]
        starts = [i * stride for i in range(length)]
        axes.bar(
            starts,
            shares,
            stride,
            below,
            align="edge",
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.0,
            label=name,
        )
        below = [a + b for a, b in zip(below, shares, strict=True)]
    axes.set_xlim(0, length * stride)
    axes.set_ylim(0.0, 1.0)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_title("Arm chosen over an answer")
    axes.set_xlabel(f"token of the answer, {stride} together")
    axes.set_ylabel("share of tokens from its rounds")
    axes.legend(loc="lower center", ncols=3, framealpha=1.0)


def _count_along(axes: Axes) -> None:
    """Whole numbers only below the axis."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _say_instead(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="#606060")
