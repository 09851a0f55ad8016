"""`edgespec tune`: the fastest settings for a model on this machine, measured and kept."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import psutil

from edgespec.benchmark import read_prompts
from edgespec.bundle import Bundle, ForeignBundle, Store, default_store
from edgespec.bundle.catalog import load_catalog
from edgespec.cli.output import clean, note, progress
from edgespec.engine import open_bundle
from edgespec.profile import Profiles, tuned_key
from edgespec.runtime.device import DeviceChoice
from edgespec.runtime.power import power_condition
from edgespec.runtime.session import default_threads
from edgespec.tuning.machine import Processes, choices, in_force, sample
from edgespec.tuning.search import Outcome, Search


@click.command("tune")
@click.argument("model", required=False)
@click.option(
    "--prompts", type=click.Path(path_type=Path), metavar="FILE.jsonl", help="Prompts in Spec-Bench's format."
)
@click.option("--minutes", type=click.FloatRange(0.0, 600.0, min_open=True), default=2.0, show_default=True)
@click.option("--undo", is_flag=True, help="Go back to the settings from before the last tuning.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--offline", is_flag=True, help="Fetch nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def tune_command(
    model: str | None,
    prompts: Path | None,
    minutes: float,
    undo: bool,
    device: DeviceChoice,
    offline: bool,
    as_json: bool,
) -> None:
    """Find the fastest threads, draft and draft length for MODEL on this machine, and keep them.

    Settings are kept only if they beat those in force in runs made for that comparison alone, beyond what chance would
    do; flags always override them. The text at temperature 0 does not depend on them.
    """
    store, reference = default_store(), model or load_catalog().default
    asked = read_prompts(prompts) if prompts else read_prompts()
    with progress() as show:
        bundle = open_bundle(reference, store, device, offline or undo, show)
        if undo:
            _undo(bundle, store, device)
            return
        before = in_force(reference, bundle, store, device)
        _warn_if_busy()
        if condition := power_condition():
            note(f"this machine runs {condition}: what is found holds for that, and nothing is changed for the rest")
        with Processes(device) as processes:
            search = Search(processes, sample(asked), minutes * 60, progress=show)
            outcome = search.find(before, choices(bundle, store))
    if outcome.better:
        Profiles(store).keep_tuned(tuned_key(bundle, device), outcome.best.settings)
    if as_json:
        click.echo(json.dumps(_report(bundle.name, outcome)))
    else:
        _print(outcome)
        note(_verdict(bundle.name, outcome))


def _warn_if_busy() -> None:
    load, cores = psutil.getloadavg()[0], default_threads()
    if load > cores / 2:
        note(f"this machine is busy (a load of {load:.1f} on {cores} cores): what is fastest now may not be so later")


def _undo(bundle: Bundle | ForeignBundle, store: Store, device: DeviceChoice) -> None:
    profiles, key = Profiles(store), tuned_key(bundle, device)
    if not profiles.undo_tuned(key):
        note(f"{bundle.name} was not tuned here, so there is nothing to undo")
        return
    tuned = profiles.tuned(key)
    note(f"{bundle.name} runs with {tuned.words} again" if tuned else f"{bundle.name} runs as if never tuned again")


def _print(outcome: Outcome) -> None:
    width = max((len(row.value) for row in outcome.rows), default=0) + 2
    click.echo(f"{'':12}{'':{width}}{'tok/s':>9}{'speed-up':>10}{'runs':>6}")
    for row in outcome.rows:
        head = f"{row.setting:12}{clean(row.value):{width}}"
        if row.tokens_per_second is None or row.speedup is None:
            click.echo(f"{head}cannot run: {clean(row.problem or '')}")
        else:
            against = "–" if row.base else f"{row.speedup:.2f}x"
            click.echo(f"{head}{row.tokens_per_second:9.1f}{against:>10}{row.runs:6}")
    click.echo("speed-up: against the value of the same setting that was best so far (–)")
    if (gain := outcome.gain) is not None:
        click.echo(
            f"{outcome.best.settings.words}: {gain.mean:.3f}x as fast as {outcome.before.settings.words} "
            f"(95 % between {gain.low:.3f} and {gain.high:.3f}, {gain.pairs} pairs of runs)"
        )


def _verdict(name: str, outcome: Outcome) -> str:
    if outcome.better:
        return f"{name} now runs with {outcome.best.settings.words}; `edgespec tune {name} --undo` goes back"
    why = "nothing looked faster" if outcome.gain is None else "what looked faster is not, beyond chance"
    return f"nothing was changed: {why}; {name} runs with {outcome.before.settings.words}"


def _report(name: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "model": name,
        "changed": outcome.better,
        "before": asdict(outcome.before.settings),
        "best": asdict(outcome.best.settings),
        "gain": asdict(outcome.gain) if outcome.gain else None,
        "rows": [asdict(row) for row in outcome.rows],
    }
