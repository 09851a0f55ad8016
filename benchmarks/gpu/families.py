"""A tiny shape for each architecture that has a graph of edgespec's own: all that makes their graphs differ."""

from __future__ import annotations

from dataclasses import replace

from edgespec.graph.config import DecoderConfig, LayerConfig, Rotary
from edgespec.graph.rotary import frequencies

_CONTEXT, _VOCAB, _LAYERS, _HEAD = 512, 512, 4, 64
_TURNS = tuple(frequencies(10_000.0, _HEAD).tolist())
_ROTARY = Rotary(_TURNS)
_PLAIN = (LayerConfig(_ROTARY),) * _LAYERS
_WINDOWS = (LayerConfig(_ROTARY, 32), LayerConfig(_ROTARY)) * (_LAYERS // 2)
_PARTIAL = Rotary(_TURNS[:24], long_frequencies=_TURNS[8:], short_context=64)
"""Three quarters of a head turn, as Phi-4-mini's do."""
_LONG = Rotary(_TURNS, long_frequencies=tuple(turn / 8 for turn in _TURNS), short_context=64)

_LLAMA = DecoderConfig(
    architecture="llama",
    layers=_PLAIN,
    hidden_size=256,
    ffn_size=512,
    heads=4,
    kv_heads=2,
    head_size=_HEAD,
    context_length=_CONTEXT,
    vocab_size=_VOCAB,
    rms_epsilon=1e-5,
    attention_scale=_HEAD**-0.5,
)
_GEMMA2 = replace(
    _LLAMA,
    architecture="gemma2",
    layers=_WINDOWS,
    activation="gelu_tanh",
    post_norms=True,
    embedding_scale=16.0,
    attention_softcap=50.0,
    logit_softcap=30.0,
)

FAMILIES = (
    _LLAMA,
    replace(_LLAMA, architecture="mistral", layers=(LayerConfig(_ROTARY, 32),) * _LAYERS, tied=False),
    replace(_LLAMA, architecture="qwen2", biases=frozenset(("attn_q", "attn_k", "attn_v"))),
    replace(_LLAMA, architecture="qwen3", qk_norms=True),
    replace(_LLAMA, architecture="smollm3", layers=(*_PLAIN[:-1], LayerConfig(None))),
    replace(
        _LLAMA,
        architecture="granite",
        embedding_scale=6.0,
        residual_scale=0.5,
        attention_scale=0.1,
        logit_scale=0.25,
    ),
    replace(_LLAMA, architecture="phi3", layers=(LayerConfig(_LONG),) * _LAYERS),
    replace(_LLAMA, architecture="phi4", layers=(LayerConfig(_PARTIAL),) * _LAYERS),
    _GEMMA2,
    replace(_GEMMA2, architecture="gemma3", attention_softcap=None, logit_softcap=None, qk_norms=True),
)
