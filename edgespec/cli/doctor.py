"""`edgespec doctor`: what this machine runs, on what, and whether the promises hold here."""

from __future__ import annotations

import json
import math
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import click
import psutil

from edgespec.bundle import default_store
from edgespec.bundle.catalog import load_catalog
from edgespec.cli.hardware import hardware_facts, hardware_rows
from edgespec.cli.output import clean, note, progress
from edgespec.decoding.exactness import splits_agree
from edgespec.engine import Resources, find_bundle, open_model
from edgespec.places import conversations_directory, history_directory
from edgespec.runtime.device import DeviceChoice
from edgespec.runtime.session import default_threads, use_threads

_PACKAGES = ("edgespec", "onnxruntime-gpu", "onnxruntime", "onnx", "numpy", "tokenizers", "textual", "gguf")
_PROBE_CONTEXT = 128


@click.command("doctor")
@click.argument("model", required=False)
@click.option("--threads", type=int, help="Threads to probe with (default: one per core).")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--pair",
    type=(str, str),
    metavar="TARGET DRAFT",
    help="Predict instead whether such a pair would be faster here; nothing is fetched.",
)
@click.option(
    "--weights", type=click.Choice(["int8", "int4"]), default="int8", show_default=True, help="Those of the --pair."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor_command(
    model: str | None,
    threads: int | None,
    device: DeviceChoice,
    pair: tuple[str, str] | None,
    weights: Literal["int8", "int4"],
    as_json: bool,
) -> None:
    """Show versions, the device really used, threads and memory, and probe that exact mode holds here.

    With --pair, time graphs of the shapes of a target and a draft, and say whether speculation could win with them:
    `--pair qwen3-4b qwen3-0.6b`, `--pair 4B 0.6B`, `--pair 1.7B ngram`.
    """
    if pair is not None:
        if model is not None:
            raise click.UsageError(
                "--pair looks at no model of this machine; leave out the name", click.get_current_context()
            )
        from edgespec.cli.pair import report_pair  # what building a graph needs is slow to import

        report_pair(*pair, weights=weights, threads=threads, device=device, as_json=as_json)
        return
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": _packages(),
        "cores": default_threads(),
        "memory_available_mb": round(psutil.virtual_memory().available / 1e6),
        "models": str(default_store().root),
        "history": _kept(history_directory()),
        "conversations": _kept(conversations_directory()),
        **hardware_facts(),
        **_probe(model, threads, device),
    }
    if as_json:
        click.echo(json.dumps(facts))
    else:
        _print(facts)
    _complain(facts)


def _packages() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _probe(model: str | None, threads: int | None, device: DeviceChoice) -> dict[str, Any]:
    """Load a model and see what it does; without any on this machine, say so."""
    store = default_store()
    name = model or load_catalog().default
    if model is None and name not in store.names():
        return {
            "model": None,
            "device": None,
            "device_reason": None,
            "threads": None,
            "exact": None,
            "resident_mb": None,
        }
    with progress() as show:
        bundle = find_bundle(name, store, device, show)
    used = use_threads(threads)
    context = min(_PROBE_CONTEXT, bundle.context_length)
    target = open_model(bundle, Resources(context, threads, device))
    return {
        "model": bundle.name,
        "device": target.device.kind,
        "device_reason": target.device.reason,
        "threads": used,
        "exact": splits_agree(target),
        "resident_mb": round(psutil.Process().memory_info().rss / 1e6),
    }


def _kept(directory: Path) -> dict[str, Any]:
    """Where something of what was said is kept, and how much."""
    size = sum(path.stat().st_size for path in directory.glob("*") if path.is_file())
    return {"directory": str(directory), "bytes": size}


def _describe_kept(what: str, purpose: str, found: dict[str, Any]) -> str:
    if not found["bytes"]:
        return f"no {what} are kept in {found['directory']}"
    kilobytes = math.ceil(found["bytes"] / 1e3)
    return f"{kilobytes} kB of {what}, {purpose}, in {found['directory']}; deleting it forgets them"


def _print(facts: dict[str, Any]) -> None:
    rows = [
        ("python", f"{facts['python']} on {facts['system']}"),
        ("packages", ", ".join(f"{name} {number}" for name, number in facts["packages"].items())),
        ("cores", str(facts["cores"])),
        ("memory", f"{facts['memory_available_mb']} MB available"),
        *hardware_rows(facts),
        ("models", facts["models"]),
        ("chats", _describe_kept("conversations", "for `edgespec history`", facts["conversations"])),
        ("history", _describe_kept("earlier answers", "for drafts", facts["history"])),
    ]
    if facts["model"]:
        holds = "holds: every split into passes gives the same bits" if facts["exact"] else "DOES NOT HOLD"
        rows += [
            ("model", facts["model"]),
            ("device", f"{facts['device']} ({facts['device_reason']})"),
            ("threads", str(facts["threads"])),
            ("exact mode", holds),
            ("resident", f"{facts['resident_mb']} MB with the model loaded"),
        ]
    for key, value in rows:
        click.echo(f"{key:<12}{clean(value)}")


def _complain(facts: dict[str, Any]) -> None:
    """Name what is wrong, and what to do about it."""
    if {"onnxruntime", "onnxruntime-gpu"} <= facts["packages"].keys():
        note("onnxruntime and onnxruntime-gpu overwrite each other; uninstall both, then install edgespec again")
    if facts["model"] is None:
        note(f"no model to probe with; `edgespec pull {load_catalog().default}` fetches one")
    if facts["exact"] is False:
        note("on this machine the text may depend on the draft; use --draft none where that matters")
