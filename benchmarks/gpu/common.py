"""What the sections share: models on the device, time, findings."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespec.bundle import default_store
from edgespec.decoding.passes import prefill
from edgespec.decoding.protocols import Draft, Fixed, Worth, always
from edgespec.decoding.rounds import generate
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.decoding.stats import Round
from edgespec.graph.builder import Profile
from edgespec.graph.config import DecoderConfig
from edgespec.graph.synthetic import SyntheticFormat, write_synthetic
from edgespec.runtime.device import Device, DeviceKind
from edgespec.runtime.graph_io import read_graph_io
from edgespec.runtime.memory import Memory
from edgespec.runtime.model import OnnxCausalLM
from edgespec.runtime.session import USUAL, CudaOptions, open_session
from edgespec.shapes import find_shape

TEXT = 40
"""Tokens of the prompt that answers begin with."""
DRAFT = 4
"""Draft length."""
TINY = "layers=8,hidden=256,ffn=512,heads=4,kv_heads=2,head_size=64,vocab=512"
"""What stands for every shape in a dry run; the fewest layers that a head can read."""
CLOSE = 2e-3
"""Mean square difference to the CPU, as a share of the logits' variance: half precision on both sides."""
_SECONDS_A_LAYER = 1.5
"""More than random weights of a layer of the large shape take to write."""


class NoTimeError(Exception):
    """The rest of a section has to be left out."""


@dataclass(slots=True)
class Finding:
    """A line of the table. good: whether what was checked holds; None for a figure."""

    what: str
    value: Any
    unit: str = ""
    good: bool | None = None
    section: str = ""

    @property
    def line(self) -> str:
        verdict = {True: "ok", False: "FAILED", None: ""}[self.good]
        return f"{self.section:12}{self.what:42}{self.value!s:>12} {self.unit:8}{verdict}".rstrip()


@dataclass(frozen=True, slots=True)
class Section:
    """What is found out, and in how many seconds."""

    name: str
    run: Callable[[Bench], Iterator[Finding]]
    seconds: float


@dataclass(slots=True)
class Bench:
    """device: where models run; small: tiny shapes; model: a bundle's name; genai: the Python of an environment with
    onnxruntime-genai; deadline: of the section that runs."""

    device: DeviceKind
    small: bool
    scratch: Path
    model: str
    genai: Path | None = None
    deadline: float = 0.0

    def require_time(self) -> None:
        """Raises: NoTimeError."""
        if perf_counter() > self.deadline:
            raise NoTimeError

    def write(self, config: DecoderConfig, weights: SyntheticFormat, profile: Profile = "cuda") -> Path:
        """A graph of that shape with random weights."""
        tied = "tied" if config.tied else "untied"
        folder = self.scratch / f"{config.architecture}-{len(config.layers)}-{tied}-{weights}-{profile}"
        if not folder.exists():
            unfinished = Path(tempfile.mkdtemp(dir=self.scratch))
            write_synthetic(config, unfinished, weights, profile)
            unfinished.rename(folder)
        return folder / "model.onnx"

    def default(self) -> tuple[Path, int, bool]:
        """The default model's graph for this device, how many tokens it knows, and whether the weights are its own;
        where it is not here, they are random."""
        store = default_store()
        if not self.small and self.model in store.names():
            bundle = store.get(self.model)
            return bundle.graph, bundle.vocab_size, True
        config = find_shape(TINY if self.small else "smollm2-135m").config
        return self.write(config, "int8"), config.vocab_size, False

    def large(self) -> tuple[Path, DecoderConfig]:
        """The graph of 4B parameters in int4 and its shape; of fewer layers, if there is no time to write them all.

        Raises: NoTimeError.
        """
        config = find_shape(TINY if self.small else "4B").config
        written = sorted(self.scratch.glob(f"{config.architecture}-*-int4-cuda"))
        layers = int(written[0].name.split("-")[1]) if written else self._affordable(config)
        config = shrunk(config, layers)
        return self.write(config, "int4"), config

    def _affordable(self, config: DecoderConfig) -> int:
        """How many layers can be written in half of the time that is left."""
        layers = min(int((self.deadline - perf_counter()) / 2 / _SECONDS_A_LAYER), len(config.layers))
        if layers < 1:
            raise NoTimeError
        return layers

    def open(self, graph: Path, vocab: int, context: int = 512, cuda: CudaOptions = USUAL) -> OnnxCausalLM:
        """On the device; should that fail, on the host from then on."""
        session = open_session(graph, self.device, cuda)
        io = read_graph_io(session.get_inputs(), session.get_overridable_initializers(), session.get_outputs(), graph)
        return OnnxCausalLM(
            session,
            io,
            Device(self.device, "measured"),
            context_length=context,
            vocab_size=vocab,
            memory=Memory(self.device, apart=True),
            reopen=lambda: open_session(graph, "cpu"),
        )


def open_host(graph: Path, vocab: int, context: int = 512) -> OnnxCausalLM:
    return OnnxCausalLM.open(graph, context_length=context, vocab_size=vocab)


def tokens(count: int, vocab: int) -> list[int]:
    """Arbitrary but fixed."""
    return [(i * 7919 + 13) % vocab for i in range(count)]


class Remembered:
    """A drafter that knows the answer, and proposes it but for one token in `wrong`, 0 for none: acceptance without a
    model."""

    name, usual, upfront = "remembered", (0.7,), True

    def __init__(self, answer: list[int], vocab: int, wrong: int = 0) -> None:
        self._answer, self._vocab, self._wrong = answer, vocab, wrong

    def propose(self, history: Any, k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        start = len(history)
        proposed = [
            (token + 1) % self._vocab if self._wrong and (start + i) % self._wrong == 0 else token
            for i, token in enumerate(self._answer[start : start + k])
        ]
        return Draft(tuple(proposed))

    def lag(self, length: int) -> int:
        return 0

    def rewind(self, length: int) -> None:
        pass


def begin(model: OnnxCausalLM) -> list[int]:
    """Have the model read the prompt; returns it."""
    history = tokens(TEXT, model.vocab_size)
    model.rewind(0)
    for _ in prefill(model, history):
        pass
    return history


def go_on(
    model: OnnxCausalLM,
    history: list[int],
    count: int,
    drafter: Any = None,
    *,
    exact: bool = False,
    sampling: Sampling | None = None,
) -> list[Round]:
    """Decode `count` tokens behind `history`, which grows by them."""
    policy = None if drafter is None else Fixed(drafter)
    sampler = Sampler(sampling or Sampling())
    rounds = generate(
        model, history, policy, k=DRAFT, sampler=sampler, max_tokens=count, ends=lambda _: False, exact=exact
    )
    return list(rounds)


def answer(
    model: OnnxCausalLM, count: int, drafter: Any = None, *, exact: bool = False
) -> tuple[list[int], list[Round]]:
    """The text, prompt included, and the rounds behind it."""
    history = begin(model)
    return history, go_on(model, history, count, drafter, exact=exact)


def difference(there: NDArray[np.float32], here: NDArray[np.float32]) -> float:
    """Mean square difference of the device's logits to the host's, as a share of the variance; see CLOSE."""
    return float(np.square(there - here).mean() / here.var())


def shrunk(config: DecoderConfig, layers: int) -> DecoderConfig:
    return replace(config, layers=config.layers[:layers])
