"""A target -> a table of n-grams that drafts for it, as a bundle: the stages of `python -m export table`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgespec.bundle import Bundle, Manifest, Source, Store, TableRecord
from edgespec.bundle.bundle import GUIDE_NAME, record_files
from edgespec.bundle.files import Progress
from edgespec.errors import ModelError
from edgespec.graph.recurrent import write_recurrent
from export.draft_data import count_tokens
from export.guide import LEAST_WAVES, Recipe, TrainedGuide, train_guide
from export.ngram_table import build_table
from export.own_text import OwnText, own_text

_BITS: Final = 19
"""Of a place in the table, which then takes 4 MB. More entries change little (docs/decisions/0023-table.md)."""
_TABLE, _CARD = "table.npy", "README.md"


@dataclass(frozen=True, slots=True)
class Built:
    """A table's bundle, how many entries it has, of how many tokens of text, how often its first proposal is the
    target's own choice, the head that guides it, and where the text is kept."""

    bundle: Bundle
    entries: int
    tokens: int
    hit_rate: float
    guide: TrainedGuide
    work: Path


def make_table(
    target: str,
    store: Store,
    tokens: int,
    *,
    name: str | None,
    device: str,
    threads: int,
    recipe: Recipe,
    progress: Progress,
) -> Built:
    """Make a table for the bundle `target` from `tokens` tokens that it wrote, and keep it as a bundle.

    device: "cpu" or "cuda". recipe: of the head that guides it. Raises: as `own_text`; ModelError if
    its text cannot be foreseen.
    """
    text = own_text(target, store, tokens, device=device, threads=threads, progress=progress)
    if len(text.waves) < LEAST_WAVES:
        raise ModelError(f"{tokens:,} tokens are too few to count and to hold some out; write more with --tokens")
    progress("Counting", 0.0)
    slots, hit_rate = build_table(text.waves, _BITS)
    entries, written = int(np.count_nonzero(slots)), count_tokens(text.waves)
    if not entries:
        raise ModelError(f"nothing that {target} says can be foreseen by its last tokens; no table was made")
    ids = text.ids
    guide = train_guide(
        text.model,
        text.waves,
        slots,
        {ids.end, *ids.to_answer, *ids.to_user},
        recipe,
        text.work / "guide.pt",
        lambda done: progress("Training its head", done),
    )
    described = card(text, entries, written, hit_rate, guide, recipe)
    made = _commit(name or f"{target}-table", text, slots, guide, entries, described, store, progress)
    return Built(made, entries, written, hit_rate, guide, text.work)


def _commit(
    name: str,
    text: OwnText,
    slots: NDArray[np.uint64],
    guide: TrainedGuide,
    entries: int,
    description: str,
    store: Store,
    progress: Progress,
) -> Bundle:
    target = text.target
    with store.staging(progress) as staging:
        np.save(staging.files / _TABLE, slots, allow_pickle=False)
        write_recurrent(guide.weights, staging.files)
        (staging.files / _CARD).write_text(f"# {name}\n\n{description}", encoding="utf-8")
        return staging.commit(
            Manifest(
                name=name,
                source=Source("training", target.name, None, hashlib.sha256(slots.tobytes()).hexdigest()),
                license=target.manifest.license,
                architecture="n-gram table",
                files=record_files(staging.files, sorted(path.name for path in staging.files.iterdir())),
                graph=_TABLE,
                context_length=target.context_length,
                vocab_size=target.vocab_size,
                eos_ids=(),
                layers=(),
                recipe=f"contexts of 1 to 8 tokens, {entries:,} entries",
                quality=None,
                table=TableRecord(target.name, target.tokenizer_sha256),
            )
        )


def card(text: OwnText, entries: int, tokens: int, hit_rate: float, guide: TrainedGuide, recipe: Recipe) -> str:
    """What the table is, and how it came about: Markdown behind its title."""
    target = text.target
    accepted = ", ".join(f"{share:.1%}" for share in guide.acceptance)
    return f"""A table of n-grams that drafts for {target.name}: for {entries:,} contexts of 1 to 8 tokens, the token
that the model itself finds likeliest behind them, and how sure that is. The model checks every token that it proposes,
so it changes how fast an answer is made, and not what the answer says.

- **Data**: {tokens:,} tokens of conversations that {target.name} wrote itself, the user's turns included, from the
  bare chat template and short openers of our own. No other text was used.
- **Recipe**: for each context, the model's probabilities of the next token, averaged over the places where the context
  stands; contexts that say what shorter ones say are left out (export/ngram_table.py).
- **Figures**: on text that was held out, sampled at temperatures from 0.3 to 1, the first proposal was the model's own
  choice for {hit_rate:.1%} of the answers' tokens. Speed is in docs/benchmarks.md.
- **Head** (`{GUIDE_NAME}`): {guide.parameters:,} parameters that read the model's hidden states and name the token
  behind the next one, and those behind that, of its {guide.weights.config.vocab_size:,} most frequent tokens
  (export/guide.py). Trained on the answers of the same text, {recipe.epochs} epochs, Muon at {recipe.rate:g} and, for
  what there is for each token, AdamW at {recipe.token_rate:g}; int8. On text that was held out {accepted}
  of what it names are the model's own choice, where those before are; and knowing what it thinks lowers what
  proposals of lookup and table cost from {guide.before:.3f} to {guide.after:.3f} nats each.
- **Made by**: `python -m export table {target.name}`
- **License**: {target.manifest.license or "that of the model"}
"""
