"""A bundle -> a model that runs: on which device, and with how long a context in the memory that there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgespec.bundle import Bundle, ForeignBundle
from edgespec.errors import ModelError, OutOfMemoryError, UsageError
from edgespec.runtime.device import DeviceChoice, DeviceKind
from edgespec.runtime.head import OnnxHead
from edgespec.runtime.loading import planned_device
from edgespec.runtime.model import OnnxCausalLM
from edgespec.runtime.onnx_nodes import operators_and_files
from edgespec.runtime.room import Needs, available_memory, needs_of, same_memory, weights_of

Notice = Callable[[str], None]

MAX_DEFAULT_CONTEXT = 8192
"""Positions. A longer context has to be asked for: its KV cache may not fit into memory."""
LEAST_CONTEXT = 1024
"""Positions. A shorter context is nobody's choice."""
_GRAIN = 64
_LEAST_EVER = 16


@dataclass(frozen=True, slots=True)
class Resources:
    """What a model may use. None: as many positions as the model knows (at most MAX_DEFAULT_CONTEXT) and memory holds,
    as many threads as there are cores."""

    context_length: int | None = None
    threads: int | None = None
    device: DeviceChoice = "auto"
    draft_device: DeviceChoice | None = None

    @property
    def for_draft(self) -> DeviceChoice:
        """Unless told otherwise, a draft goes beside its target if its graph is made for that."""
        return self.draft_device or ("cpu" if self.device == "cpu" else "auto")


def open_model(
    bundle: Bundle | ForeignBundle,
    resources: Resources,
    notice: Notice = lambda _text: None,
    beside: OnnxCausalLM | None = None,
) -> OnnxCausalLM:
    """Load a bundle's graph. A context that nobody asked for is as long as memory allows; `notice` hears of that, and
    of a GPU that is too small. beside: a model whose cache will yet take memory.

    Raises: UsageError if the model's context is shorter, ModelError, OutOfMemoryError before anything is loaded.
    """
    known = bundle.context_length
    wanted = min(known, MAX_DEFAULT_CONTEXT) if resources.context_length is None else resources.context_length
    if not _LEAST_EVER <= wanted <= known:
        raise UsageError(f"a context of {wanted} tokens cannot be had: {bundle.name} takes between 16 and {known}.")
    head_size = None
    if isinstance(bundle, ForeignBundle):
        bundle.require_plain(operators_and_files(bundle.graph)[1])
        head_size = bundle.head_size
    plan = _Plan(bundle, head_size, beside)
    device, context = plan.place(resources.device, wanted, asked=resources.context_length is not None, notice=notice)
    return OnnxCausalLM.open(
        bundle.graph, context_length=context, vocab_size=bundle.vocab_size, device=device, head_size=head_size
    )


def needs_of_bundle(bundle: Bundle | ForeignBundle, kind: DeviceKind, head_size: int | None = None) -> Needs | None:
    """What a bundle takes there, before it is loaded; `head_size` as in `read_graph_io`. None where its graph cannot be
    read: whoever loads it says what is wrong with it."""
    try:
        weights = bundle.manifest.size if isinstance(bundle, Bundle) else weights_of(bundle.graph)
        return needs_of(bundle.graph, weights, kind, head_size)
    except (ModelError, OSError):
        return None


def open_head(
    bundle: Bundle | ForeignBundle,
    window: int | None,
    target: Path,
    resources: Resources,
    notice: Notice,
    beside: OnnxCausalLM,
) -> OnnxHead:
    """Load a head for the model `beside` it, whose graph is `target`. window: as the head's record has it. It drafts as
    far as its context reaches, so where memory is short that is as long as fits.

    Raises: ModelError, OutOfMemoryError before anything is loaded.
    """
    wanted = resources.context_length or bundle.context_length
    device, context = _Plan(bundle, None, beside).place(resources.device, wanted, asked=False, notice=notice)
    return OnnxHead.open(
        bundle.graph, target, hidden_size=beside.hidden_size, context_length=context, window=window, device=device
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a bundle takes of memory, and what it leaves for the context."""

    bundle: Bundle | ForeignBundle
    head_size: int | None
    beside: OnnxCausalLM | None

    def place(self, device: DeviceChoice, wanted: int, *, asked: bool, notice: Notice) -> tuple[DeviceChoice, int]:
        """On which device, and with how long a context. Raises: ModelError, OutOfMemoryError."""
        kind = planned_device(self.bundle.graph, device).kind
        if kind == "cuda" and device == "auto" and self.positions("cuda", wanted) < min(wanted, LEAST_CONTEXT):
            notice(f"{self.shortage('cuda', wanted)}, so it runs on the CPU")
            device, kind = "cpu", "cpu"
        return device, self.context(kind, wanted, asked=asked, notice=notice)

    def context(self, kind: DeviceKind, wanted: int, *, asked: bool, notice: Notice) -> int:
        """`wanted`, or what memory holds of it if that is not too little. Raises: OutOfMemoryError."""
        fits = self.positions(kind, wanted)
        if fits >= wanted:
            return wanted
        context = fits // _GRAIN * _GRAIN
        if asked or context < min(wanted, LEAST_CONTEXT):
            step = f"use --ctx-size {context}" if context else "close other programs, or take a smaller model"
            raise OutOfMemoryError(f"{self.shortage(kind, wanted)}; {step}.")
        notice(f"{self.shortage(kind, wanted)}, so its context is {context} tokens")
        return context

    def positions(self, kind: DeviceKind, wanted: int) -> int:
        """How many positions fit; `wanted` where nobody knows."""
        needs, available = self._needs(kind), self._available(kind)
        return wanted if needs is None or available is None else needs.positions_within(available)

    def shortage(self, kind: DeviceKind, wanted: int) -> str:
        needs, available = self._needs(kind), self._available(kind)
        assert needs is not None
        assert available is not None  # else nothing would be short
        where = "of the GPU's memory " if kind == "cuda" else ""
        return (
            f"{self.bundle.name} needs {needs.total(wanted) / 1e9:.1f} GB with a context of {wanted} tokens, and "
            f"{max(available, 0) / 1e9:.1f} GB {where}are free"
        )

    def _needs(self, kind: DeviceKind) -> Needs | None:
        return needs_of_bundle(self.bundle, kind, self.head_size)

    def _available(self, kind: DeviceKind) -> int | None:
        available = available_memory(kind)
        if available is None or self.beside is None or not same_memory(kind, self.beside.device.kind):
            return available
        return available - self.beside.untouched_bytes
