"""A Hugging Face model -> a bundle with its checks: edgespec's own graph where it has one, else Optimum's."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from edgespec import making
from edgespec.bundle import Bundle, Checks, Store
from edgespec.bundle.catalog import load_catalog
from edgespec.bundle.files import Progress
from edgespec.bundle.hub import HubModel, HubReference, look_up
from edgespec.bundle.hub_download import fetch_files, missing_bytes
from edgespec.bundle.manifest import check_name
from edgespec.chat.tokenizer import Tokenizer
from edgespec.decoding.protocols import Logits
from edgespec.errors import ModelError, UsageError
from edgespec.graph import Converted, reference_logits
from edgespec.graph.builder import Profile
from edgespec.graph.families import read_family
from edgespec.graph.formats import WeightsName
from edgespec.graph.settings import Settings
from edgespec.making import Float32, Tools, space_needed
from edgespec.model_folder import DESCRIPTIONS, ModelFolder
from edgespec.pull import fetched_into, find, pull, work_name
from edgespec.quality import Text, graph_logits
from export.costs import measure_costs
from export.parity import parity

MAX_PARITY = 0.05
"""SmolLM2-135M's float32 graph comes within 1e-4 of transformers' logits; beyond this a graph is of another model."""

_BYTES_PER_WEIGHT = {"int8": 1.125, "mixed": 0.9, "int4": 0.7}
"""Scales included; the embedding and the head are int8 in all of them."""
_KV_POSITIONS, _KV_BYTES = 4096, 4


@dataclass(frozen=True, slots=True)
class Plan:
    """What an export would do. Sizes are in bytes: `fetch` over the network; estimates are `disk` while it is made,
    `size` of the bundle, and `memory` to run it with 4,096 positions. `obstacle`: why the graph is not edgespec's own
    but Optimum's; None if it is."""

    name: str
    architecture: str
    obstacle: str | None
    fetch: int
    disk: int
    size: int
    memory: int


def export(
    reference: str,
    store: Store,
    *,
    name: str | None,
    weights: WeightsName,
    force: bool,
    draft: str | None,
    progress: Progress,
) -> Bundle:
    """The bundle of a checkpoint, OWNER/NAME[@REVISION] of the Hub or a folder, made if need be, with its checks.

    `draft` is the bundle that is to draft for it. `force` keeps what the checks would refuse. Raises: as `pull`.
    """
    _origin(reference)
    tools = Tools(weights, convert, choose_reference, partial(inspect, force=force), force, draft)
    return pull(reference, store, name=name, tools=tools, progress=progress)


def plan(reference: str, store: Store, *, name: str | None, weights: WeightsName, progress: Progress) -> Plan:
    """Look at what describes a model, and say what `export` would do. Nothing is kept. Raises: as `pull`."""
    origin, base = _origin(reference)
    if isinstance(origin, HubReference):
        origin = look_up(origin)
    with _descriptions(origin, progress) as folder:
        model = ModelFolder.read(folder)
        if isinstance(origin, HubModel):
            kept = store.work_directory(work_name(origin) or "")
            size, fetch = origin.size, missing_bytes(origin, fetched_into(kept, origin))
        else:
            size, fetch = sum(file.stat().st_size for file in origin.glob("*.safetensors")), 0
        made = int(size / _stored_bytes(model) * _BYTES_PER_WEIGHT[weights])
        return Plan(
            name=check_name(name or base),
            architecture=str(model.config.get("model_type")),
            obstacle=obstacle(folder),
            fetch=fetch,
            disk=fetch + space_needed(size, checkpoint=True, inspected=True),
            size=made,
            memory=made + _kv_size(model),
        )


def require_same_vocabulary(target: str, draft: str, progress: Progress) -> int:
    """How many tokens both models have. Raises: ModelError if the draft's are not the target's, as `pull` otherwise."""
    ours, theirs = (_vocabulary(reference, progress) for reference in (target, draft))
    if ours != theirs:
        raise ModelError(
            f"{draft} cannot draft for {target}: their tokenizers differ; choose a smaller model of the same family, "
            f"or export {target} alone and let n-gram lookup draft"
        )
    return len(ours)


def obstacle(folder: Path) -> str | None:
    """Why edgespec has no graph of its own for a checkpoint; None if it has one."""
    try:
        read_family(Settings(ModelFolder.read(folder).config, "config.json"))
    except ModelError as error:
        return str(error)
    return None


def convert(
    source: Path,
    out: Path,
    *,
    weights: WeightsName,
    profile: Profile = "cpu",
    keep_layers: Sequence[int] | None = None,
    progress: Progress,
) -> Converted:
    """A `making.Converter`: edgespec's own graph of a checkpoint, or Optimum's if it has none."""
    if obstacle(source) is None:
        return making.convert(source, out, weights=weights, profile=profile, keep_layers=keep_layers, progress=progress)
    if profile != "cpu":
        raise UsageError("Optimum's graphs are made for the CPU here; edgespec's own families can be made for CUDA.")
    from export.optimum_export import export_with_optimum  # needs the extra; a dry run does not

    if weights not in ("int8", "int4", "float32"):
        raise UsageError(f"Optimum's graphs cannot have {weights} weights; use --weights int8 or int4")
    return export_with_optimum(source, out, weights=weights, progress=progress)


def choose_reference(
    source: Path,
    texts: Sequence[Text],
    vocab_size: int,
    progress: Callable[[float], None],
    *,
    float32: Float32,
) -> Iterator[Logits]:
    """A `making.Reference`: the weights themselves where edgespec knows what to do with them, else Optimum's graph."""
    if obstacle(source) is None:
        return reference_logits(source, texts, vocab_size, progress)
    return graph_logits(float32(), texts, vocab_size, progress)


def inspect(source: Path, files: Path, float32: Float32, made: Converted, progress: Progress, *, force: bool) -> Checks:
    """A `making.Inspect`. Raises: ModelError for logits that are not transformers', unless `force`."""
    progress("Comparing with transformers", 0.0)
    difference = parity(source, float32, made.context_length)
    if difference is not None and not difference <= MAX_PARITY and not force:
        raise ModelError(
            f"the graph of {source.name} is not the model: its logits are up to {difference:.3g} away from "
            "transformers'; please report it, or keep it all the same with --force"
        )
    progress("Comparing with transformers", 1.0)
    progress("Timing passes", 0.0)
    memory, pass_ms = measure_costs(files / "model.onnx", made.context_length, made.vocab_size)
    progress("Timing passes", 1.0)
    return Checks(difference, memory, pass_ms)


def _origin(reference: str) -> tuple[HubReference | Path, str]:
    """Where the checkpoint is, and what to call it."""
    origin, base, _ = find(reference, load_catalog())
    if isinstance(origin, HubReference) and origin.file is None:
        return origin, base
    if isinstance(origin, Path) and origin.is_dir():
        return origin, base
    raise UsageError(f"{reference} is no checkpoint in safetensors; `edgespec pull {reference}` converts it")


@contextmanager
def _descriptions(origin: HubModel | Path, progress: Progress) -> Generator[Path]:
    """A folder with what describes the model, without its weights if they are on the Hub."""
    if isinstance(origin, Path):
        yield origin
        return
    with tempfile.TemporaryDirectory(prefix="edgespec-") as directory:
        files = tuple(file for file in origin.files if file.name in DESCRIPTIONS)
        fetch_files(replace(origin, files=files), Path(directory), progress)
        yield Path(directory)


def _vocabulary(reference: str, progress: Progress) -> dict[str, int]:
    origin, _ = _origin(reference)
    with _descriptions(look_up(origin) if isinstance(origin, HubReference) else origin, progress) as folder:
        ModelFolder.read(folder)
        return Tokenizer.load(folder / "tokenizer.json").vocabulary()


def _stored_bytes(model: ModelFolder) -> int:
    """Bytes of a weight in the checkpoint."""
    return 4 if "float32" in (model.config.get("torch_dtype"), model.config.get("dtype")) else 2


def _kv_size(model: ModelFolder) -> int:
    """Bytes of a KV cache, as far as config.json uses the common names."""

    def count(key: str, default: int) -> int:
        value = model.config.get(key)
        return value if isinstance(value, int) else default

    heads = count("num_attention_heads", 1)
    head_size = count("head_dim", count("hidden_size", 0) // max(heads, 1))
    positions = min(_KV_POSITIONS, model.context_length() or _KV_POSITIONS)
    return 2 * count("num_hidden_layers", 0) * count("num_key_value_heads", heads) * head_size * positions * _KV_BYTES
