"""`edgespec bench`: is speculation worth it on this machine, and is it lossless?"""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from edgespec.benchmark import BUILT_IN, Prompt, measure, read_prompts
from edgespec.benchmark.compare import compare, read_report
from edgespec.benchmark.energy import EnergyMeter, energy_meter
from edgespec.benchmark.prompts import fingerprint
from edgespec.benchmark.report import Report, make_report, require_writable, write_csv
from edgespec.benchmark.self_test import self_test
from edgespec.chat.session import Chat
from edgespec.cli import bench_text
from edgespec.cli.options import generation_flags, read_resources, read_settings
from edgespec.cli.output import Progress, note, progress
from edgespec.decoding.controller import Controller
from edgespec.decoding.tree import Branching
from edgespec.engine import open_chat
from edgespec.errors import GenerationError, UsageError
from edgespec.runtime.session import runtime_version, use_threads

DEFAULT_TOKENS = 128


@click.command("bench")
@click.argument("model", required=False)
@click.option(
    "--prompts", type=click.Path(path_type=Path), metavar="FILE.jsonl", help="Prompts in Spec-Bench's format."
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N prompts of each category.")
@click.option("--repeat", type=click.IntRange(1), default=1, show_default=True, help="Runs of each prompt.")
@click.option(
    "--csv", "csv_file", type=click.Path(path_type=Path), metavar="FILE", help="Also write a line per prompt."
)
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.svg|png", help="Also draw the figures.")
@click.option(
    "--compare",
    "compared",
    nargs=2,
    type=click.Path(path_type=Path),
    metavar="A.json B.json",
    help="Measure nothing; say whether B was faster than A, two files of --json.",
)
@click.option("--self-test", "test", is_flag=True, help="Test that the draft does not change what the model says.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@generation_flags(max_tokens=DEFAULT_TOKENS)
def bench_command(
    model: str | None,
    prompts: Path | None,
    limit: int | None,
    repeat: int,
    csv_file: Path | None,
    plot: Path | None,
    compared: tuple[Path, Path] | None,
    test: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Compare speculative with plain decoding, prompt by prompt, in turn."""
    if compared:
        _compare(*compared, as_json)
        return
    if test and (csv_file or plot):
        raise UsageError("--self-test measures no speed; leave out --csv and --plot.")
    chosen = read_prompts(prompts or BUILT_IN, limit)
    if test:
        _self_test(model, chosen, as_json, flags)
        return
    for path in filter(None, (csv_file, plot)):
        require_writable(path)
    if plot:
        from edgespec.benchmark.plots import require_plots  # matplotlib is an extra, and slow to import

        require_plots(plot)
    report = _measure(model, chosen, repeat, flags)
    click.echo(json.dumps(report) if as_json else bench_text.table(report))
    if csv_file:
        with csv_file.open("w", encoding="utf-8", newline="") as file:
            write_csv(report, file)
    if plot:
        from edgespec.benchmark.plots import draw_report

        draw_report(report, plot)


def _measure(model: str | None, prompts: Sequence[Prompt], repeat: int, flags: dict[str, Any]) -> Report:
    with progress() as show, energy_meter() as meter:
        chat = _open(model, flags, show)
        environment = _environment(chat, prompts, repeat, meter)
        rows = list(
            measure(
                chat,
                prompts,
                repeat=repeat,
                progress=lambda done: show("Comparing", done),
                joules=meter.joules if meter else None,
            )
        )
    if left_out := len(prompts) - len(rows):
        note(f"{left_out} of {len(prompts)} prompts do not fit the context and were left out; see --ctx-size")
    policy = chat.policy.policy if isinstance(chat.policy, Branching) else chat.policy
    return make_report(environment, rows, policy.measured if isinstance(policy, Controller) else None)


def _self_test(model: str | None, prompts: Sequence[Prompt], as_json: bool, flags: dict[str, Any]) -> None:
    """Raises: GenerationError if the pair is not lossless, after the figures are printed."""
    seed = flags["seed"] or 0
    with progress() as show:
        chat = _open(model, flags, show)
        found = self_test(chat, prompts, seed=seed, progress=lambda done: show("Testing", done))
    if as_json:
        verdict = {"model": chat.model, "draft": chat.draft, "seed": seed, "lossless": found.lossless}
        click.echo(json.dumps({**verdict, "limit": found.limit, **dataclasses.asdict(found)}))
    else:
        click.echo(bench_text.self_test(chat, found, seed))
    if not found.lossless:
        raise GenerationError(
            f"{chat.draft} changes what {chat.model} says here; use --draft none, and see whether `edgespec doctor` "
            "finds a reason."
        )


def _compare(a: Path, b: Path, as_json: bool) -> None:
    found = compare(read_report(a), read_report(b))
    if not as_json:
        click.echo(bench_text.comparison(found))
        return
    ratios = {
        name: {**dataclasses.asdict(ratio), "verdict": ratio.verdict}
        for name, ratio in {**found.categories, "": found.overall}.items()
    }
    overall = ratios.pop("")
    differences = {name: [ours, theirs] for name, ours, theirs in found.differences}
    click.echo(json.dumps({"basis": found.basis, "differences": differences, "overall": overall, "categories": ratios}))


def _open(model: str | None, flags: dict[str, Any], show: Progress) -> Chat:
    return open_chat(
        model,
        draft=flags["draft"],
        settings=read_settings(flags),
        resources=read_resources(flags),
        offline=flags["offline"],
        progress=show,
        notice=note,
    )


def _environment(chat: Chat, prompts: Sequence[Prompt], repeat: int, meter: EnergyMeter | None) -> dict[str, Any]:
    """What ran, and where: all that the figures depend on."""
    sampling = dataclasses.asdict(chat.settings.sampling)
    return {
        "edgespec": version("edgespec"),
        "onnxruntime": runtime_version(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "model": chat.model,
        "draft": chat.draft,
        "draft_max": chat.settings.longest_draft,
        "draft_branches": chat.settings.draft_branches,
        "exact": chat.exact,
        "device": chat.device,
        "threads": use_threads(None),
        "context": chat.context_length,
        "max_tokens": chat.settings.max_tokens,
        **sampling,
        "prompts": fingerprint(prompts),
        "repeat": repeat,
        "energy": meter.source if meter else None,
    }
