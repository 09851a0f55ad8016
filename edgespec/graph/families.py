"""What config.json of a checkpoint says about a model of the families that can be built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from edgespec.errors import ModelError
from edgespec.graph.config import Activation, DecoderConfig, LayerConfig, Rotary
from edgespec.graph.gguf_reader import shown
from edgespec.graph.rope_types import read_rotary
from edgespec.graph.settings import Settings

_QKV: Final = frozenset({"attn_q", "attn_k", "attn_v"})
_FEED_FORWARD: Final = frozenset({"ffn_gate", "ffn_up", "ffn_down"})
_MAX_LAYERS: Final = 1024
_ACTIVATIONS: Final[dict[str, Activation]] = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_CHANGES_THE_MODEL: Final = ("quantization_config", "rope_interleaved", "use_bidirectional_attention")
"""Keys that any family may have, and that mean another computation unless they are off."""

_GEMMA3_DEFAULTS: Final[dict[str, Any]] = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "vocab_size": 262208,
}
"""What transformers assumes where the language model's part of a Gemma 3 that sees does not say."""


def read_family(settings: Settings) -> DecoderConfig:
    """The model that config.json describes.

    Raises: ModelError for a family, a feature or a value that is not known here, naming it: what is not understood is
    never left out of a graph.
    """
    family = settings.text("model_type")
    if family not in _FAMILIES:
        raise ModelError(
            f"{settings.where} describes a model of the family {shown(family)}, and edgespec has graphs of its own for "
            f"{', '.join(_FAMILIES)}; `python -m export hf` takes others, with PyTorch and Optimum."
        )
    for key in _CHANGES_THE_MODEL:
        if settings.values.get(key):
            raise settings.refuse(key, settings.values[key])
    config = _FAMILIES[family](settings)
    config.check(settings.error)
    return config


def _llama(s: Settings) -> DecoderConfig:
    return _decoder(s, _uniform(s, _rotary(s)), biases=_biases(s))


def _mistral(s: Settings) -> DecoderConfig:
    window = s.integer("sliding_window") if "sliding_window" in s.values else None
    return _decoder(s, _uniform(s, _rotary(s), window))


def _qwen2(s: Settings) -> DecoderConfig:
    return _decoder(s, _windowed_by_type(s), biases=_QKV)


def _qwen3(s: Settings) -> DecoderConfig:
    return _decoder(s, _windowed_by_type(s), biases=_biases(s), qk_norms=True)


def _smollm3(s: Settings) -> DecoderConfig:
    """Every fourth layer, unless the list says otherwise, knows no positions: its entry is 0."""
    count, interval = _layer_count(s), s.integer("no_rope_layer_interval", 4)
    if "no_rope_layers" in s.values:
        turned = [value != 0 for value in s.numbers("no_rope_layers", count)]
    elif interval > 0:
        turned = [(n + 1) % interval != 0 for n in range(count)]
    else:
        raise s.refuse("no_rope_layer_interval", interval)
    windowed = _windowed_by_type(s, base=2e6)
    layers = [
        layer if turns else LayerConfig(None, layer.window) for layer, turns in zip(windowed, turned, strict=True)
    ]
    return _decoder(s, layers, tied=s.flag("tie_word_embeddings", True), biases=_biases(s))


def _granite(s: Settings) -> DecoderConfig:
    return _decoder(
        s,
        _uniform(s, _rotary(s)),
        biases=_biases(s),
        embedding_scale=s.number("embedding_multiplier", 1.0),
        residual_scale=s.number("residual_multiplier", 1.0),
        attention_scale=s.number("attention_multiplier", 1.0),
        logit_scale=1 / (s.number("logits_scaling", 1.0) or float("nan")),
    )


def _phi3(s: Settings) -> DecoderConfig:
    window = s.integer("sliding_window") if "sliding_window" in s.values else None
    return _decoder(s, _uniform(s, _rotary(s), window))


def _gemma2(s: Settings) -> DecoderConfig:
    types = _layer_types(s, ["full_attention" if n % 2 else "sliding_attention" for n in range(_layer_count(s))])
    rotary, window = _rotary(s), _window(s, s.integer("sliding_window", 4096))
    layers = [LayerConfig(rotary, window if kind == "sliding_attention" else None) for kind in types]
    attention, logits = s.number("attn_logit_softcapping", 50.0), s.number("final_logit_softcapping", 30.0)
    return _gemma(s, layers, attention_softcap=attention, logit_softcap=logits)


def _gemma3(s: Settings) -> DecoderConfig:
    """Local layers see a window and turn by a base of their own, global ones see all; both bases stand in
    rope_parameters since transformers 5."""
    s = Settings(_GEMMA3_DEFAULTS | s.values, s.where)
    if "attn_logit_softcapping" in s.values:
        raise s.refuse("attn_logit_softcapping", s.values["attn_logit_softcapping"])
    pattern, count = s.integer("sliding_window_pattern", 6), _layer_count(s)
    if pattern < 1:
        raise s.refuse("sliding_window_pattern", pattern)
    types = _layer_types(s, ["sliding_attention" if (n + 1) % pattern else "full_attention" for n in range(count)])
    parameters = s.section("rope_parameters")
    both = {kind: parameters.section(kind) if parameters else None for kind in ("full_attention", "sliding_attention")}
    far = read_rotary(
        s, both["full_attention"] or s.section("rope_scaling"), _head_size(s), s.number("rope_theta", 1e6)
    )
    near = read_rotary(s, both["sliding_attention"], _head_size(s), s.number("rope_local_base_freq", 1e4))
    local = LayerConfig(near, _window(s, s.integer("sliding_window", 4096)))
    layers = [local if kind == "sliding_attention" else LayerConfig(far) for kind in types]
    cap = s.number("final_logit_softcapping") if "final_logit_softcapping" in s.values else None
    return _gemma(s, layers, biases=_biases(s), qk_norms=True, logit_softcap=cap)


def _gemma(s: Settings, layers: Sequence[LayerConfig], **features: Any) -> DecoderConfig:
    scale = s.number("query_pre_attn_scalar", 256.0)
    if scale <= 0:
        raise s.refuse("query_pre_attn_scalar", scale)
    return _decoder(
        s,
        layers,
        activation_key="hidden_activation",
        tied=s.flag("tie_word_embeddings", True),
        post_norms=True,
        attention_scale=scale**-0.5,
        embedding_scale=s.integer("hidden_size") ** 0.5,
        **features,
    )


_FAMILIES: Final[dict[str, Callable[[Settings], DecoderConfig]]] = {
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "granite": _granite,
    "llama": _llama,
    "mistral": _mistral,
    "phi3": _phi3,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "smollm3": _smollm3,
}


def _decoder(
    s: Settings, layers: Sequence[LayerConfig], activation_key: str = "hidden_act", **features: Any
) -> DecoderConfig:
    """What all families have, with `features` on top."""
    heads, head_size = s.integer("num_attention_heads"), _head_size(s)
    activation = s.text(activation_key, "gelu_pytorch_tanh" if activation_key != "hidden_act" else None)
    if activation not in _ACTIVATIONS:
        raise s.refuse(activation_key, activation)
    common: dict[str, Any] = {
        "architecture": s.text("model_type"),
        "layers": tuple(layers),
        "hidden_size": s.integer("hidden_size"),
        "ffn_size": s.integer("intermediate_size"),
        "heads": heads,
        "kv_heads": s.integer("num_key_value_heads", heads),
        "head_size": head_size,
        "context_length": s.integer("max_position_embeddings"),
        "vocab_size": s.integer("vocab_size"),
        "rms_epsilon": s.number("rms_norm_eps", 1e-6),
        "attention_scale": head_size**-0.5,
        "activation": _ACTIVATIONS[activation],
        "tied": s.flag("tie_word_embeddings", False),
    }
    return DecoderConfig(**(common | features))


def _layer_count(s: Settings) -> int:
    count = s.integer("num_hidden_layers")
    if not 0 < count <= _MAX_LAYERS:
        raise s.refuse("num_hidden_layers", count)
    return count


def _head_size(s: Settings) -> int:
    heads = s.integer("num_attention_heads")
    size = s.integer("head_dim", s.integer("hidden_size") // heads if heads > 0 else 0)
    if size < 1:
        raise s.refuse("head_dim", size)
    return size


def _rotary(s: Settings, base: float = 1e4) -> Rotary:
    scaling = s.section("rope_parameters") or s.section("rope_scaling")
    return read_rotary(s, scaling, _head_size(s), s.number("rope_theta", base))


def _uniform(s: Settings, rotary: Rotary, window: int | None = None) -> list[LayerConfig]:
    return [LayerConfig(rotary, None if window is None else _window(s, window))] * _layer_count(s)


def _windowed_by_type(s: Settings, base: float = 1e4) -> list[LayerConfig]:
    """A window where use_sliding_window says so: in the layers so typed, or from max_window_layers on."""
    rotary, count = _rotary(s, base), _layer_count(s)
    if not s.flag("use_sliding_window", False) or "sliding_window" not in s.values:
        return [LayerConfig(rotary)] * count
    first = s.integer("max_window_layers", 0)
    default = ["sliding_attention" if n >= first else "full_attention" for n in range(count)]
    window = _window(s, s.integer("sliding_window"))
    types = _layer_types(s, default)
    return [LayerConfig(rotary, window if kind == "sliding_attention" else None) for kind in types]


def _layer_types(s: Settings, default: list[str]) -> list[str]:
    types = s.texts("layer_types", len(default)) if "layer_types" in s.values else default
    for kind in types:
        if kind not in ("full_attention", "sliding_attention"):
            raise s.refuse("layer_types", kind)
    return types


def _window(s: Settings, window: int) -> int | None:
    """A window that holds the whole context is none."""
    return None if window >= s.integer("max_position_embeddings") else window


def _biases(s: Settings) -> frozenset[str]:
    attention = _QKV | {"attn_output"} if s.flag("attention_bias", False) else frozenset[str]()
    return attention | (_FEED_FORWARD if s.flag("mlp_bias", False) else frozenset[str]())
