"""A model in, bundle files out: the graph, its weights, the tokenizer and the chat template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gguf.constants import GGMLQuantizationType
from tokenizers import Tokenizer

from edgespec.errors import UsageError
from edgespec.graph.builder import DATA_NAME, GRAPH_NAME, GraphBuilder, Profile
from edgespec.graph.checkpoint import CheckpointWeights, read_license, read_tokenizer
from edgespec.graph.config import DecoderConfig
from edgespec.graph.decoder import DecoderGraph
from edgespec.graph.equalize import Channels, measure_channels, passage_ids
from edgespec.graph.families import read_family
from edgespec.graph.formats import FORMATS, WeightFormat, WeightsName
from edgespec.graph.gguf_families import read_config
from edgespec.graph.gguf_model import GGUFWeights
from edgespec.graph.gguf_reader import GGUFFile
from edgespec.graph.int4 import has_four_bits
from edgespec.graph.quantize import Rows
from edgespec.graph.settings import Settings
from edgespec.graph.tokenizer import build_tokenizer, chat_template, end_of_text_ids
from edgespec.graph.weights import WeightSource
from edgespec.model_folder import ModelFolder

TOKENIZER_NAME = "tokenizer.json"
TEMPLATE_NAME = "chat_template.jinja"
_STAGE = "Converting the model"
_UNQUANTIZED = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)
_EQUALIZING = 0.25
"""Its share of the work."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Converted:
    """What came out of a conversion.

    `eos_ids`: the ids that end an answer. `layers`: which of the source's layers were kept. `recipe`: what the weights
    went through. `files`: the names written.
    """

    architecture: str
    name: str
    license: str | None
    context_length: int
    vocab_size: int
    eos_ids: tuple[int, ...]
    layers: tuple[int, ...]
    recipe: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Model:
    """What the readers of GGUF files and of checkpoints have in common. `vocab_size` counts the tokens that model and
    tokenizer share."""

    config: DecoderConfig
    vocab_size: int
    source: WeightSource
    tokenizer: Tokenizer
    template: str
    eos_ids: tuple[int, ...]
    name: str
    license: str | None


def convert_gguf(
    source: Path,
    out: Path,
    *,
    weights: WeightsName = "int8",
    keep_layers: Sequence[int] | None = None,
    profile: Profile = "cpu",
    progress: Progress | None = None,
) -> Converted:
    """Write the model in `source` as an ONNX graph with its tokenizer into the directory `out`, made if need be.

    `weights`: "int8", "int4", "mixed" (int8 for the matrices that int4 harms most) or "kept" (a GGUF file's own 4-bit
    values, else int8), all in blocks of 32, to run; "float32", the dequantized weights, to measure those against.
    `keep_layers` keeps only these layers, in rising order: a layer-skip draft. `profile`: the floats are float32 for
    "cpu", float16 for "cuda". `progress` hears (stage, fraction 0..1).
    The same source gives the same bytes on one machine; all but float32 may differ by a rounding where NumPy's matrix
    products run on another number of threads. Nothing is flushed to the disk: that is for the caller.

    Graph, in the profile's floats but for the ids: input_ids int64 [1,S], attention_mask int64 [1,past+S],
    past_key_values.N.key/value [1,Hkv,P,D] -> logits [1,R,V], present.N.key/value. Optional, int64 []:
    num_logits_to_keep (0, all rows), attention_padding ("cpu" only: 0; rows that only attention sees, see Attention),
    context_length (LongRoPE only: the model's; the context that the cache has room for). Optional, for draft trees
    ("cpu" only, without windows and LongRoPE): position_ids int64 [1,S], attention_bias [1,1,S,past+S].

    Raises: ModelError if the file is damaged, of another architecture, or cannot be converted faithfully; UsageError
    for layers that it does not have; OSError if `out` cannot be written.
    """
    file = GGUFFile(source)
    config = read_config(file)
    model = _Model(
        config=config,
        vocab_size=config.vocab_size,
        source=GGUFWeights(file, config),
        tokenizer=build_tokenizer(file, config.vocab_size),
        template=chat_template(file),
        eos_ids=end_of_text_ids(file, config.vocab_size),
        name=file.text("general.name", source.stem),
        license=file.text("general.license", "") or None,
    )
    return _convert(model, out, FORMATS[weights], _kept(keep_layers, len(config.layers)), profile, progress)


def formats_to_try(source: Path) -> tuple[WeightsName, ...]:
    """The formats that may suit a GGUF file or a checkpoint's folder, the fastest first; int8 is last and always does.

    Raises: ModelError if the file is missing or damaged.
    """
    if source.is_dir():
        return ("int4", "mixed", "int8")
    layers = [t for name, t in GGUFFile(source).tensors.items() if name.startswith("blk.") and len(t.shape) > 1]
    if any(has_four_bits([Rows.of(tensor)]) for tensor in layers):
        return ("kept", "int8")
    if all(tensor.type in _UNQUANTIZED for tensor in layers):
        return ("int4", "mixed", "int8")
    return ("int8",)


def convert_checkpoint(
    source_dir: Path,
    out: Path,
    *,
    weights: WeightsName = "int8",
    keep_layers: Sequence[int] | None = None,
    profile: Profile = "cpu",
    progress: Progress | None = None,
) -> Converted:
    """The same for a folder as Hugging Face's transformers writes it: config.json, safetensors, tokenizer.json.

    Raises: as `convert_gguf`; nothing in the folder is executed or unpickled.
    """
    folder = ModelFolder.read(source_dir)
    config = read_family(Settings(folder.config, f"config.json of {source_dir.name}"))
    model = _Model(
        config=config,
        vocab_size=folder.shared_vocab_size(),
        tokenizer=read_tokenizer(folder, config.vocab_size),
        source=CheckpointWeights(source_dir, config),
        template=folder.chat_template() or "",
        eos_ids=folder.end_of_text_ids(),
        name=source_dir.resolve().name,
        license=read_license(source_dir),
    )
    return _convert(model, out, FORMATS[weights], _kept(keep_layers, len(config.layers)), profile, progress)


def _convert(
    model: _Model,
    out: Path,
    weights: WeightFormat,
    layers: tuple[int, ...],
    profile: Profile,
    progress: Progress | None,
) -> Converted:
    config, report = model.config, partial(progress, _STAGE) if progress else _silent
    channels = Channels()
    if weights.rounded:
        ids = passage_ids(model.tokenizer, config)
        channels = measure_channels(
            model.source, config, layers, ids, weights.equalizes, lambda done: report(done * _EQUALIZING)
        )
    out.mkdir(parents=True, exist_ok=True)
    with GraphBuilder(out, profile) as graph:
        rest = _EQUALIZING if weights.rounded else 0.0
        built = DecoderGraph(graph, model.source, config, weights, channels)
        built.build(layers, lambda done: report(rest + done * (1 - rest)))
        graph.save(config.architecture)
    texts = {TOKENIZER_NAME: model.tokenizer.to_str(), TEMPLATE_NAME: model.template}
    written = [name for name, text in texts.items() if text]
    for name in written:
        (out / name).write_text(texts[name], encoding="utf-8", newline="")
    return Converted(
        architecture=config.architecture,
        name=model.name,
        license=model.license,
        context_length=config.context_length,
        vocab_size=model.vocab_size,
        eos_ids=model.eos_ids,
        layers=layers,
        recipe=weights.recipe if profile == "cpu" else f"{weights.recipe}, float16 activations",
        files=(GRAPH_NAME, DATA_NAME, *written),
    )


def _silent(_fraction: float) -> None:
    pass


def _kept(keep_layers: Sequence[int] | None, layers: int) -> tuple[int, ...]:
    if keep_layers is None:
        return tuple(range(layers))
    kept = tuple(keep_layers)
    if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= layers:
        raise UsageError(f"The layers to keep must be rising numbers from 0 to {layers - 1}, not {list(kept)}.")
    return kept
