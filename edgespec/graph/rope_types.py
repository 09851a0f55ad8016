"""The ways in which checkpoints scale their rotation, by the names that Hugging Face's transformers gives them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgespec.graph.config import Rotary
from edgespec.graph.rotary import frequencies
from edgespec.graph.settings import Settings

Array = NDArray[np.float64]

_COMMON: Final = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_KEYS: Final[dict[str, set[str]]] = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "longrope": {"short_factor", "long_factor", "factor", "attention_factor", "original_max_position_embeddings"},
    "yarn": {
        "factor",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "original_max_position_embeddings",
        "truncate",
    },
}


def read_rotary(settings: Settings, scaling: Settings | None, head_size: int, base: float) -> Rotary:
    """The rotation that config.json describes, with its rope_scaling or, since transformers 5, rope_parameters.

    `base` counts where `scaling` names none. Raises: ModelError for a type or a key that is not known here.
    """
    scaling = scaling or Settings({}, settings.where)
    kind = scaling.text("rope_type", scaling.text("type", "default"))
    kind = "longrope" if kind == "su" else kind
    if kind not in _KEYS:
        raise settings.refuse("rope_type", kind)
    if unknown := scaling.values.keys() - _KEYS[kind] - _COMMON:
        raise scaling.refuse("rotation", f"{kind} with {min(unknown)}")
    base = scaling.number("rope_theta", base)
    share = scaling.number("partial_rotary_factor", settings.number("partial_rotary_factor", 1.0))
    if not 1 < base < math.inf or not 0 < share <= 1:
        raise settings.error("its rotation base or partial_rotary_factor is out of range")
    size = int(head_size * share)
    if size < 2 or size % 2:
        raise settings.error(f"it rotates {size} of a head's {head_size} values")
    turns = frequencies(base, size)
    if kind == "default":
        return Rotary(tuple(turns.tolist()))
    return _SCALED[kind](settings, scaling, turns, base)


def _linear(_settings: Settings, scaling: Settings, turns: Array, _base: float) -> Rotary:
    return Rotary(tuple((turns / _factor(scaling)).tolist()))


def _llama3(_settings: Settings, scaling: Settings, turns: Array, _base: float) -> Rotary:
    """Slow pairs are slowed by `factor`, fast ones are kept, and those between are blended (Llama 3.1)."""
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    if not 0 < low < high:
        raise scaling.error("its frequency factors are out of range")
    # How often a pair turns within the original context.
    turned = scaling.integer("original_max_position_embeddings") * turns / (2 * math.pi)
    kept = np.clip((turned - low) / (high - low), 0.0, 1.0)
    return Rotary(tuple((turns * kept + turns / _factor(scaling) * (1 - kept)).tolist()))


def _yarn(settings: Settings, scaling: Settings, turns: Array, base: float) -> Rotary:
    """Peng et al. 2023, arXiv:2309.00071."""
    factor, size = _factor(scaling), 2 * len(turns)
    context = scaling.integer("original_max_position_embeddings", settings.integer("max_position_embeddings"))
    fast, slow = scaling.number("beta_fast", 32.0), scaling.number("beta_slow", 1.0)
    if context < 1 or not 0 < slow < fast:
        raise scaling.error("its original context or its betas are out of range")
    first, last = (size * math.log(context / (n * 2 * math.pi)) / (2 * math.log(base)) for n in (fast, slow))
    if scaling.flag("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    slowed = np.clip((np.arange(len(turns)) - first) / (last - first or 0.001), 0.0, 1.0)
    magnitude = scaling.number("attention_factor", 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0)
    return Rotary(tuple((turns / factor * slowed + turns * (1 - slowed)).tolist()), magnitude)


def _longrope(settings: Settings, scaling: Settings, turns: Array, _base: float) -> Rotary:
    """Ding et al. 2024, arXiv:2402.13753: other divisors for each pair in contexts beyond the original one."""
    context = settings.integer("max_position_embeddings")
    original = settings.values.get("original_max_position_embeddings")
    where = settings if original is not None else scaling
    short_context = where.integer("original_max_position_embeddings", context)
    if not 1 < short_context <= context:
        raise settings.error(f"its original context length is {short_context:,}")
    factor = context / short_context if where is settings else scaling.number("factor", context / short_context)
    magnitude = math.sqrt(1 + math.log(factor) / math.log(short_context)) if factor > 1 else 1.0
    short, long = (np.array(scaling.numbers(f"{which}_factor", len(turns))) for which in ("short", "long"))
    if min(short.min(), long.min()) <= 0:
        raise scaling.error("its factors are not positive")
    return Rotary(
        tuple((turns / short).tolist()),
        scaling.number("attention_factor", magnitude),
        tuple((turns / long).tolist()),
        short_context,
    )


def _factor(scaling: Settings) -> float:
    factor = scaling.number("factor")
    if not factor > 0:
        raise scaling.error("its factor is not positive")
    return factor


_SCALED: Final[dict[str, Callable[[Settings, Settings, Array, float], Rotary]]] = {
    "linear": _linear,
    "llama3": _llama3,
    "longrope": _longrope,
    "yarn": _yarn,
}
