"""How large a model is, from a name, a size or its numbers: nothing has to be here but the words."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgespec.errors import ModelError, UsageError
from edgespec.graph.config import DecoderConfig, LayerConfig, Rotary
from edgespec.graph.quantize import BLOCK
from edgespec.graph.rotary import frequencies

_SHAPES = Path(__file__).with_name("shapes.toml")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([MB])", re.IGNORECASE)
_UNITS = {"M": 1e6, "B": 1e9}
_NUMBERS = ("layers", "hidden", "ffn", "heads", "kv_heads", "head_size", "vocab")
_MAX_LAYERS = 1024
_HINT = (
    "give a name of `edgespec list --catalog`, a size such as 4B, or "
    "layers=36,hidden=2560,ffn=9728,heads=32,kv_heads=8,head_size=128,vocab=151936"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's shape. `name` says how it was found."""

    name: str
    config: DecoderConfig

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.config.tensors().values())

    @property
    def layer_parameters(self) -> int:
        """Those of one layer."""
        layers = self.config.layers
        return self.parameters - replace(self, config=replace(self.config, layers=layers[:-1])).parameters

    def weight_bytes(self, layer_bits: int) -> int:
        """Of weights in blocks of 32 with a float32 scale: 8 bits each, and so many in the layers."""
        saved = self.layer_parameters * len(self.config.layers) * (8 - layer_bits) / 8
        return round(self.parameters * (1 + 4 / BLOCK) - saved)

    def cache_bytes(self, positions: int) -> int:
        """Of a float32 KV cache of so many positions."""
        return 2 * len(self.config.layers) * self.config.key_size * positions * 4


def read_shapes(path: Path = _SHAPES) -> dict[str, Shape]:
    """The known shapes by name, from the smallest; the file is part of the program."""
    table: dict[str, dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: Shape(name, _config(entry)) for name, entry in table.items()}


def find_shape(text: str, *, vocab_size: int | None = None) -> Shape:
    """The shape that `text` names. A size such as 4B is a model that is known with layers more or fewer; with
    `vocab_size`, which a draft shares with its target, it is fitted to that.

    Raises: UsageError.
    """
    known = read_shapes()
    if text in known:
        return known[text]
    if size := _SIZE.fullmatch(text):
        return _sized(text, float(size[1]) * _UNITS[size[2].upper()], known, vocab_size)
    if "=" in text:
        return _given(text)
    raise UsageError(f"{text!r} is no model's size; {_HINT}.")


def _sized(text: str, parameters: float, known: Mapping[str, Shape], vocab_size: int | None) -> Shape:
    if not 1e6 <= parameters <= 1e12:
        raise UsageError(f"a model of {text} parameters cannot be judged; {_HINT}.")
    nearest = min(known.values(), key=lambda shape: abs(math.log(shape.parameters / parameters)))
    config = nearest.config if vocab_size is None else replace(nearest.config, vocab_size=vocab_size)
    shape = replace(nearest, config=config)
    missing = round((parameters - shape.parameters) / shape.layer_parameters)
    layers = len(config.layers) + missing
    if not 0 < layers <= _MAX_LAYERS:
        raise UsageError(f"a model of {text} parameters cannot have {config.vocab_size:,} tokens; {_HINT}.")
    return Shape(f"{text} (like {nearest.name})", replace(config, layers=config.layers[:1] * layers))


def _given(text: str) -> Shape:
    try:
        numbers = {key.strip(): int(value) for key, _, value in (part.partition("=") for part in text.split(","))}
    except ValueError as error:
        raise UsageError(f"{text!r} holds something that is no number; {_HINT}.") from error
    if set(numbers) != set(_NUMBERS):
        wrong = ", ".join(sorted(set(numbers) ^ set(_NUMBERS)))
        raise UsageError(f"a shape has exactly the numbers {', '.join(_NUMBERS)} (see {wrong}); {_HINT}.")
    if not 0 < numbers["layers"] <= _MAX_LAYERS or max(numbers.values()) > 1 << 20 or min(numbers.values()) < 1:
        raise UsageError(f"{text!r} has a number that no model has; {_HINT}.")
    config = _config(numbers)
    try:
        config.check(lambda cause: ModelError(cause))
    except ModelError as error:
        raise UsageError(f"{text!r} is no model's shape: {error}.") from error
    if any(shape[-1] % BLOCK for shape in config.tensors().values() if len(shape) == 2):
        raise UsageError(f"{text!r} cannot be stored in blocks: hidden, ffn and heads*head_size must be 32s.")
    return Shape(text, config)


def _config(entry: Mapping[str, Any]) -> DecoderConfig:
    rotary = Rotary(tuple(frequencies(1e6, entry["head_size"]).tolist()))
    return DecoderConfig(
        architecture="synthetic",
        layers=(LayerConfig(rotary),) * entry["layers"],
        hidden_size=entry["hidden"],
        ffn_size=entry["ffn"],
        heads=entry["heads"],
        kv_heads=entry["kv_heads"],
        head_size=entry["head_size"],
        context_length=4096,
        vocab_size=entry["vocab"],
        rms_epsilon=1e-6,
        attention_scale=entry["head_size"] ** -0.5,
        tied=entry.get("tied", True),
        qk_norms=entry.get("qk_norms", False),
        post_norms=entry.get("post_norms", False),
    )
