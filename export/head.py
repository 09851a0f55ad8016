"""A target -> a trained head, as a bundle: the stages of `python -m export head`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgespec.bundle import Bundle, Source, Store
from edgespec.bundle.files import Progress
from edgespec.graph.formats import WeightsName
from edgespec.heads import keep_head
from export.own_text import own_text
from export.train_draft import Point, Recipe, Training, save_head

WEIGHTS: Final[WeightsName] = "int8"
_CARD, _CURVE = "README.md", "training.svg"
_COLORS, _MARKERS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7"), ("o", "s", "^", "D")


@dataclass(frozen=True, slots=True)
class Trained:
    """A head's bundle, how the training went, and where its data and its weights in bfloat16 are kept."""

    bundle: Bundle
    points: Sequence[Point]
    work: Path


def train_head(
    target: str, store: Store, recipe: Recipe, *, name: str | None, device: str, threads: int, progress: Progress
) -> Trained:
    """Train a head for the bundle `target` and keep it as a bundle. What an earlier call left is gone on from: data
    that the target wrote, and the training of the same recipe.

    device: "cpu" or "cuda". Raises: as `own_text`; ModelError if the target cannot have one.
    """
    text = own_text(target, store, recipe.tokens, device=device, threads=threads, progress=progress)
    training = Training(text.model, text.ids, text.waves, text.work, recipe)
    training.run(progress)
    weights = text.work / "head"
    save_head(training.head, training.words, weights)
    made = _commit(name or f"{target}-eagle3", text.target, weights, training, store, progress)
    return Trained(made, training.points, text.work)


def _commit(name: str, target: Bundle, weights: Path, training: Training, store: Store, progress: Progress) -> Bundle:
    """The head that was saved in `weights` as a bundle."""
    with (weights / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()

    def describe(files: Path) -> Sequence[str]:
        (files / _CARD).write_text(card(name, target, training), encoding="utf-8")
        draw_curve(training.points, files / _CURVE)
        return _CARD, _CURVE

    source = Source("training", target.name, None, digest)
    with store.staging(progress) as staging:
        return keep_head(staging, weights, target, name, source, target.manifest.license, WEIGHTS, describe)


def card(name: str, target: Bundle, training: Training) -> str:
    """What the head is, and how it came about: Markdown."""
    recipe, last = training.recipe, training.points[-1]
    accepted = ", ".join(f"{share:.1%}" for share in last.acceptance)
    return f"""# {name}

A head that drafts for {target.name}: one decoder layer on three of its hidden states, with an output head over its
{recipe.words:,} most frequent tokens ({training.known_share:.1%} of what it says), after EAGLE-3 (Li et al. 2025,
arXiv:2503.01840). The model checks every token that it proposes, so it changes how fast an answer is made, and not what
the answer says.

- **Data**: {recipe.tokens:,} tokens of conversations that {target.name} wrote itself, the user's turns included, from
  the bare chat template and short openers of our own. No other text was used.
- **Recipe**: {recipe.epochs} epochs of {training.tokens_per_epoch:,} tokens, {recipe.unrolled} steps on its own
  states, a window of {recipe.window} positions, AdamW at {recipe.rate:g}; begun as the model's own last layer.
  Weights: {WEIGHTS}.
- **Figures**: on answers that were held out, sampled at temperatures from 0.3 to 1, {accepted} of the proposals at
  positions 1 to {recipe.unrolled} were the model's own choice, where those before were: {last.tokens_per_round:.2f}
  tokens per round. Speed is in docs/benchmarks.md.
- **Made by**: `python -m export head {target.name}`
- **License**: {target.manifest.license or "that of the model"}
"""


def draw_curve(points: Sequence[Point], path: Path) -> None:
    """Loss and acceptance over the tokens of the training, as a picture."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "edgespec"}):
        figure = Figure(figsize=(9.0, 3.4), layout=ConstrainedLayoutEngine())
        loss, acceptance = figure.subplots(1, 2)
        tokens = [point.tokens / 1e6 for point in points]
        loss.plot(tokens, [point.loss for point in points], color="#0072B2")
        loss.set(xlabel="million tokens", ylabel="loss, nats per token")
        for position, (color, marker) in enumerate(zip(_COLORS, _MARKERS, strict=False)):
            shares = [point.acceptance[position] for point in points if position < len(point.acceptance)]
            if shares:
                acceptance.plot(tokens, shares, color=color, marker=marker, ms=3, label=f"position {position + 1}")
        acceptance.set(xlabel="million tokens", ylabel="the model's own choice", ylim=(0, 1))
        acceptance.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})
