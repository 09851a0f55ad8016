"""`edgespec doctor --pair`: whether a pair of given sizes could win on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click
import psutil

from edgespec.cli.output import clean, progress
from edgespec.errors import UsageError
from edgespec.graph.synthetic import SyntheticFormat
from edgespec.pairing import CONTEXT, MEMORY_CONTEXT, Prediction, predict
from edgespec.runtime.device import DeviceChoice
from edgespec.runtime.session import use_threads
from edgespec.shapes import Shape, find_shape


def report_pair(
    target: str, draft: str, *, weights: SyntheticFormat, threads: int | None, device: DeviceChoice, as_json: bool
) -> None:
    """Print the prediction for a target and a draft, each as `find_shape` takes it, or "ngram" for the draft."""
    big = find_shape(target)
    small = None if draft == "ngram" else find_shape(draft, vocab_size=big.config.vocab_size)
    if small is not None and small.parameters >= big.parameters:
        raise UsageError(f"the draft, {small.name}, is not smaller than the target, {big.name}: name the target first.")
    used = use_threads(threads)
    with progress() as show:
        available = psutil.virtual_memory().available
        found = predict(
            big,
            small,
            available,
            weights=weights,
            device=device,
            progress=lambda done: show("Timing the pair", done),
        )
    if as_json:
        click.echo(json.dumps(_values(big, small, weights, used, found)))
        return
    for key, value in _facts(big, small, weights, used, found):
        click.echo(f"{key:<12}{clean(value)}")


def _values(target: Shape, draft: Shape | None, weights: str, threads: int, found: Prediction) -> dict[str, Any]:
    return {
        "target": _shape(target),
        "draft": _shape(draft) if draft else None,
        "weights": weights,
        "threads": threads,
        "memory_needed_mb": round(found.memory / 1e6),
        "memory_available_mb": round(found.available / 1e6),
        "pass_ms": found.passes,
        "draft_ms": found.draft_ms,
        "predictions": [{"acceptance": a, "draft_length": k, "speedup": s} for a, k, s in found.speedups],
        "acceptance_needed": found.enough,
        "verdict": found.verdict,
    }


def _shape(shape: Shape) -> dict[str, Any]:
    config = asdict(shape.config)
    numbers = ("hidden_size", "ffn_size", "heads", "kv_heads", "head_size", "vocab_size")
    layers = len(shape.config.layers)
    return {"name": shape.name, "parameters": shape.parameters, "layers": layers} | {n: config[n] for n in numbers}


def _facts(target: Shape, draft: Shape | None, weights: str, threads: int, found: Prediction) -> list[tuple[str, str]]:
    needed, available = found.memory / 1e9, found.available / 1e9
    facts = [
        ("target", _describe(target)),
        ("draft", _describe(draft) if draft else "ngram: looked up, which costs next to nothing"),
        (
            "memory",
            f"{needed:.1f} GB in {weights} with {MEMORY_CONTEXT} tokens of context; {available:.1f} GB available",
        ),
    ]
    if found.passes:
        plain, ratios = found.passes[0], " ".join(f"{ms / found.passes[0]:.2f}" for ms in found.passes)
        facts += [
            ("plain step", f"{plain:.1f} ms with {threads} threads behind {CONTEXT} tokens, {1e3 / plain:.1f} tok/s"),
            ("pass", f"of 1 to {len(found.passes)} rows, in plain steps: {ratios}"),
            ("draft step", f"{found.draft_ms:.1f} ms, {found.draft_ms / plain:.2f} of a plain step"),
        ]
    for acceptance, k, speedup in found.speedups:
        how = f"{speedup:.2f}x as fast with drafts of {k}" if k else "plain decoding is faster"
        facts.append(("accepted", f"{acceptance:.0%}: {how}"))
    return [*facts, ("verdict", found.verdict)]


def _describe(shape: Shape) -> str:
    return f"{shape.name}: {len(shape.config.layers)} layers, {shape.parameters / 1e9:.2f} billion parameters"
