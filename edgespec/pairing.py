"""Whether a pair could win on this machine, before anything is fetched: graphs of its shape are built and timed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from edgespec.decoding.calibrate import measure_costs
from edgespec.decoding.prediction import WORTHWHILE, best_speedup, break_even
from edgespec.graph.builder import Profile
from edgespec.graph.config import DecoderConfig
from edgespec.graph.synthetic import SyntheticFormat, part_of, write_synthetic
from edgespec.runtime.device import DeviceChoice, likely_device
from edgespec.runtime.model import OnnxCausalLM
from edgespec.shapes import Shape

ACCEPTANCES = (0.5, 0.6, 0.7, 0.8)
CONTEXT = 512
"""Positions behind which passes are timed."""
MEMORY_CONTEXT = 4096
_PROGRAM_BYTES = 150_000_000
"""Of the program itself, without any model."""

_ROWS = 9
_PART = 128_000_000
"""Weights of a graph that is timed: more than processors keep in their caches, and quick to write."""
_SMALL_VOCAB = 256
_TURNS, _SECONDS = 2, 0.8
"""How often each shape is timed, the quickest counting, and seconds of timing for each of its graphs."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the pair would do here. Times in milliseconds behind CONTEXT positions, memory in bytes with MEMORY_CONTEXT.

    passes: the target's, of 1 to 9 rows. draft_ms: a proposal. speedups: (acceptance, best draft length, speed-up).
    enough: the acceptance from which on the pair pays, None if none is. Without a measurement, for want of memory, all
    of these are empty.
    """

    memory: int
    available: int
    passes: tuple[float, ...] = ()
    draft_ms: float = 0.0
    speedups: tuple[tuple[float, int, float], ...] = ()
    enough: float | None = None

    @property
    def fits(self) -> bool:
        return self.memory <= self.available

    @property
    def verdict(self) -> str:
        """One sentence."""
        if not self.fits:
            needed, available = self.memory / 1e9, self.available / 1e9
            return f"it does not fit: {needed:.1f} GB are needed and {available:.1f} GB are available"
        if self.enough is None:
            return "it cannot win here: even if 19 of 20 proposals were accepted, drafting would cost what it saves"
        what = f"it is at least {WORTHWHILE} times as fast as plain decoding if more than {self.enough:.0%} of the"
        if self.enough <= 0.6:
            return f"it can win here: {what} tested proposals are accepted, as those of good drafts are"
        if self.enough <= 0.8:
            return f"it may win here: {what} tested proposals are accepted, as only those of the best drafts are"
        return f"it will hardly win here: {what} tested proposals are accepted, as hardly any draft's are"


def predict(
    target: Shape,
    draft: Shape | None,
    available: int,
    *,
    weights: SyntheticFormat,
    device: DeviceChoice,
    progress: Callable[[float], None] = lambda _: None,
) -> Prediction:
    """Time graphs of both shapes and weigh them against each other. draft: None is looking up, which costs nothing.
    available: bytes of memory. weights: of the layers of both.

    Raises: ModelError, OutOfMemoryError, GenerationError, OSError.
    """
    shapes = [target] if draft is None else [target, draft]
    bits = 4 if weights == "int4" else 8
    memory = _PROGRAM_BYTES + sum(shape.weight_bytes(bits) + shape.cache_bytes(MEMORY_CONTEXT) for shape in shapes)
    if memory > available:
        return Prediction(memory, available)
    share = 1 / (_TURNS * len(shapes))

    def timed(n: int) -> list[float]:
        shape = shapes[n % len(shapes)]
        rows = _ROWS if shape is target else 2
        return time_shape(shape.config, rows, weights, device, lambda done: progress((n + done) * share))

    # In turn, so that a spell in which the machine is slow hits not only one of them.
    times = [timed(n) for n in range(_TURNS * len(shapes))]
    passes, *steps = (_quickest(times[i :: len(shapes)]) for i in range(len(shapes)))
    return weigh(passes, steps[0][0] if steps else 0.0, memory, available)


def _quickest(times: Sequence[Sequence[float]]) -> list[float]:
    return [min(turns) for turns in zip(*times, strict=True)]


def weigh(passes: Sequence[float], draft_ms: float, memory: int, available: int) -> Prediction:
    """The prediction that follows from measured costs. A pass that took less than one of fewer rows was lucky."""
    passes = tuple(accumulate(passes, max))
    speedups = tuple((a, *best_speedup(passes, draft_ms, a)) for a in ACCEPTANCES)
    return Prediction(memory, available, passes, draft_ms, speedups, break_even(passes, draft_ms))


def time_shape(
    config: DecoderConfig,
    rows: int,
    weights: SyntheticFormat,
    device: DeviceChoice,
    progress: Callable[[float], None] = lambda _: None,
) -> list[float]:
    """Milliseconds of passes of 1 to `rows` rows of a model of that shape, behind CONTEXT positions.

    A small one is built whole. Of others, a few layers and a piece of the head are: passes spend their time on reading
    and multiplying weights, so it grows with the layers, and with the head's rows.
    """
    layer, whole = _weights(config, 1) - _weights(config, 0), _weights(config, len(config.layers))
    if whole <= 2 * _PART:
        return _time(config, rows, weights, device, progress)
    layers = min(max(_PART // layer, 1), len(config.layers))
    vocab = min(max(_PART // config.hidden_size, _SMALL_VOCAB), config.vocab_size)
    body = _time(part_of(config, layers, _SMALL_VOCAB), rows, weights, device, lambda done: progress(done / 2))
    head = _time(part_of(config, 1, vocab), rows, weights, device, lambda done: progress((1 + done) / 2))
    return extrapolate(body, layers, head, vocab, config)


def extrapolate(
    body: Sequence[float], layers: int, head: Sequence[float], vocab: int, config: DecoderConfig
) -> list[float]:
    """Times of the whole from those of `layers` layers alone, and of one layer with a head of `vocab` rows."""
    whole: list[float] = []
    for several, one in zip(body, head, strict=True):
        layer = several / layers
        whole.append(layer * len(config.layers) + max(one - layer, 0.0) * config.vocab_size / vocab)
    return whole


def _weights(config: DecoderConfig, layers: int) -> int:
    """How many there are with so many layers."""
    return Shape("", part_of(config, layers, config.vocab_size)).parameters


def _time(
    config: DecoderConfig,
    rows: int,
    weights: SyntheticFormat,
    device: DeviceChoice,
    progress: Callable[[float], None],
) -> list[float]:
    profile: Profile = "cuda" if likely_device(device) == "cuda" else "cpu"
    with tempfile.TemporaryDirectory(prefix="edgespec-") as directory:
        graph = write_synthetic(config, Path(directory), weights, profile)
        progress(0.3)
        model = OnnxCausalLM.open(graph, context_length=2 * CONTEXT + rows, vocab_size=config.vocab_size, device=device)
        costs = measure_costs(
            model, [], k_max=rows - 1, seconds=_SECONDS, progress=lambda done: progress(0.3 + 0.7 * done)
        )
    return costs.at(CONTEXT, exact=False)
