"""An EAGLE-3 head as it is published: config.json and one safetensors file.

Two layouts are about. That of the paper's authors (LlamaForCausalLMEagle3) calls the layer `midlayer`; that of vLLM's
speculators (Eagle3LlamaForCausalLM) calls it `layers.0`, keeps the layer's settings in `transformer_layer_config`, and
may add to the normed feature. In both, token i of the head is token i + d2t[i] of the target.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgespec.errors import ModelError
from edgespec.graph.builder import GraphBuilder, Profile
from edgespec.graph.checkpoint import open_shards
from edgespec.graph.eagle import HeadConfig, HeadGraph
from edgespec.graph.formats import FORMATS, WeightsName
from edgespec.graph.gguf_reader import shown
from edgespec.graph.quantize import Rows
from edgespec.graph.rope_types import read_rotary
from edgespec.graph.safetensors_reader import SafetensorsFile
from edgespec.graph.settings import Settings
from edgespec.model_folder import read_object

TAPS: Final = 3
"""How many hidden states a head reads."""
_WHOLE: Final = {"fc": "fc", "output_norm": "norm", "output": "lm_head"}
_LAYER: Final = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "embedding_norm": "input_layernorm",
    "feature_norm": "hidden_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_UNUSED: Final = frozenset({"t2d", "embed_tokens.weight"})
"""What `d2t` says already, and a copy of the target's embedding."""


class EagleCheckpoint:
    """A folder with a head: its `config`, and its weights as a HeadSource."""

    def __init__(self, folder: Path, *, target_vocab_size: int) -> None:
        """Raises: ModelError if a file is damaged or missing, or describes what is not known here."""
        self._folder = folder
        settings = Settings(read_object(folder / "config.json"), f"config.json of {folder.name}")
        files = open_shards(folder)
        self._stored = {_plain(name): (file, name) for file in files for name in file}
        self.config: Final = _read_config(settings)
        self._shapes = self.config.tensors()
        known = {self._place(name) for name in self._shapes} | _UNUSED | {"d2t"}
        if unknown := self._stored.keys() - known:
            raise self.error(f"it has a tensor {shown(min(unknown))}, which EAGLE-3 heads do not have")
        for name in self._shapes:
            self.rows(name)
        self._token_ids = self._read_token_ids(target_vocab_size)

    @property
    def token_ids(self) -> NDArray[np.int64]:
        return self._token_ids

    def error(self, cause: str) -> ModelError:
        return ModelError(f"{self._folder.name} cannot be used as a head: {cause}; use another one.")

    def rows(self, name: str) -> Rows:
        file, stored = self._find(self._place(name))
        return Rows.of(file.tensor(stored, *self._shapes[name]))

    def _find(self, place: str) -> tuple[SafetensorsFile, str]:
        if place not in self._stored:
            raise self.error(f"the tensor {place} is missing")
        return self._stored[place]

    def _place(self, name: str) -> str:
        part = name.removesuffix(".weight")
        if part in _WHOLE:
            return f"{_WHOLE[part]}.weight"
        layer = "midlayer" if "midlayer.hidden_norm.weight" in self._stored else "layers.0"
        return f"{layer}.{_LAYER[part]}.weight"

    def _read_token_ids(self, target_vocab_size: int) -> NDArray[np.int64]:
        """Raises: ModelError unless each of the head's tokens is another one of the target's."""
        own = np.arange(self.config.vocab_size)
        if "d2t" in self._stored:
            file, stored = self._stored["d2t"]
            own = own + file.integers(stored, self.config.vocab_size)
        if len(np.unique(own)) != len(own) or own.min() < 0 or own.max() >= target_vocab_size:
            raise self.error("its tokens (d2t) are not the target's")
        return own


def _plain(name: str) -> str:
    return name.removeprefix("model.")


def _read_config(settings: Settings) -> HeadConfig:
    layer = settings.section("transformer_layer_config") or settings
    if layer.integer("num_hidden_layers", 1) != 1:
        raise layer.refuse("num_hidden_layers", layer.values["num_hidden_layers"])
    if (activation := layer.text("hidden_act", "silu")) != "silu":
        raise layer.refuse("hidden_act", activation)
    hidden, heads = layer.integer("hidden_size"), layer.integer("num_attention_heads")
    head_size = layer.integer("head_dim", hidden // heads if heads > 0 else 0)
    target = settings.integer("target_hidden_size", hidden)
    scaling = layer.section("rope_parameters") or layer.section("rope_scaling")
    window: Any = layer.values.get("sliding_window")
    config = HeadConfig(
        hidden_size=hidden,
        tapped_size=TAPS * target,
        embedding_size=target,
        ffn_size=layer.integer("intermediate_size"),
        heads=heads,
        kv_heads=layer.integer("num_key_value_heads", heads),
        head_size=head_size,
        context_length=layer.integer("max_position_embeddings"),
        vocab_size=settings.integer("draft_vocab_size", layer.integer("vocab_size", 0)),
        rms_epsilon=layer.number("rms_norm_eps", 1e-6),
        rotary=read_rotary(layer, scaling, head_size, layer.number("rope_theta", 1e4)),
        window=None if window is None else layer.integer("sliding_window"),
        norm_before_residual=settings.flag("norm_before_residual", False),
    )
    sizes = (hidden, target, config.ffn_size, heads, config.kv_heads, head_size, config.vocab_size)
    if min(sizes) < 1 or heads % config.kv_heads or not 1 < config.context_length <= 1 << 20:
        raise settings.error("its sizes do not fit together")
    return config


def convert_head(
    folder: Path, out: Path, *, target_vocab_size: int, weights: WeightsName = "int8", profile: Profile = "cpu"
) -> HeadConfig:
    """Write the head in `folder` as a graph into the directory `out`, made if need be; returns what it is like.
    `profile`: what it is to compute on, as for `edgespec.graph.convert_gguf`.

    Raises: ModelError if it cannot be converted faithfully; OSError if `out` cannot be written.
    """
    checkpoint = EagleCheckpoint(folder, target_vocab_size=target_vocab_size)
    out.mkdir(parents=True, exist_ok=True)
    with GraphBuilder(out, profile) as graph:
        HeadGraph(graph, checkpoint, checkpoint.config, FORMATS[weights]).build()
        graph.save("eagle3")
    return checkpoint.config
