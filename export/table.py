"""A target -> a table of n-grams that drafts for it, as a bundle: the stages of `python -m export table`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgespec.bundle import Bundle, Manifest, Source, Store, TableRecord
from edgespec.bundle.bundle import JUDGE_NAME, record_files
from edgespec.bundle.files import Progress
from edgespec.errors import ModelError
from export.draft_data import count_tokens
from export.judge import LEAST_WAVES, TrainedJudge, train_judge
from export.ngram_table import build_table
from export.own_text import OwnText, own_text

_BITS: Final = 19
"""Of a place in the table, which then takes 4 MB. More entries change little (docs/decisions/0023-table.md)."""
_TABLE, _CARD = "table.npy", "README.md"


@dataclass(frozen=True, slots=True)
class Built:
    """A table's bundle, how many entries it has, of how many tokens of text, how often its first proposal is the
    target's own choice, its judge if the text was enough for one, and where the text is kept."""

    bundle: Bundle
    entries: int
    tokens: int
    hit_rate: float
    judge: TrainedJudge | None
    work: Path


def make_table(
    target: str, store: Store, tokens: int, *, name: str | None, device: str, threads: int, progress: Progress
) -> Built:
    """Make a table for the bundle `target` from `tokens` tokens that it wrote, and keep it as a bundle.

    device: "cpu" or "cuda", for writing. Raises: as `own_text`; ModelError if
    its text cannot be foreseen.
    """
    text = own_text(target, store, tokens, device=device, threads=threads, progress=progress)
    progress("Counting", 0.0)
    slots, hit_rate = build_table(text.waves, _BITS)
    entries, written = int(np.count_nonzero(slots)), count_tokens(text.waves)
    if not entries:
        raise ModelError(f"nothing that {target} says can be foreseen by its last tokens; no table was made")
    judge = None
    if len(text.waves) >= LEAST_WAVES:
        vocab_size = text.target.vocab_size
        judge = train_judge(text.waves, _BITS, vocab_size, lambda done: progress("Training its judge", done))
    described = card(text, entries, written, hit_rate, judge)
    made = _commit(name or f"{target}-table", text, slots, judge, entries, described, store, progress)
    return Built(made, entries, written, hit_rate, judge, text.work)


def _commit(
    name: str,
    text: OwnText,
    slots: NDArray[np.uint64],
    judge: TrainedJudge | None,
    entries: int,
    description: str,
    store: Store,
    progress: Progress,
) -> Bundle:
    target = text.target
    with store.staging(progress) as staging:
        np.save(staging.files / _TABLE, slots, allow_pickle=False)
        if judge is not None:
            judge.weights.save(staging.files / JUDGE_NAME)
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


def card(text: OwnText, entries: int, tokens: int, hit_rate: float, judge: TrainedJudge | None) -> str:
    """What the table is, and how it came about: Markdown behind its title."""
    target = text.target
    judged = (
        ""
        if judge is None
        else f"""
- **Judge** (`{JUDGE_NAME}`): {judge.parameters:,} parameters that read the model's highest hidden state and say how
  likely it makes a token that lookup or this table proposes; trained on the same text, with proposals of tables that
  had not counted it (export/judge.py). On text that was held out it lowers what proposals cost from {judge.before:.3f}
  to {judge.after:.3f} nats each."""
    )
    return f"""A table of n-grams that drafts for {target.name}: for {entries:,} contexts of 1 to 8 tokens, the token
that the model itself finds likeliest behind them, and how sure that is. The model checks every token that it proposes,
so it changes how fast an answer is made, and not what the answer says.

- **Data**: {tokens:,} tokens of conversations that {target.name} wrote itself, the user's turns included, from the
  bare chat template and short openers of our own. No other text was used.
- **Recipe**: for each context, the model's probabilities of the next token, averaged over the places where the context
  stands; contexts that say what shorter ones say are left out (export/ngram_table.py).
- **Figures**: on text that was held out, sampled at temperatures from 0.3 to 1, the first proposal was the model's own
  choice for {hit_rate:.1%} of the answers' tokens. Speed is in docs/benchmarks.md.{judged}
- **Made by**: `python -m export table {target.name}`
- **License**: {target.manifest.license or "that of the model"}
"""
