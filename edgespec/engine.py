"""From a model's name to a chat: opens bundles, makes the drafter, checks that the two fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgespec.bundle import Bundle, Store, default_store
from edgespec.bundle.catalog import load_catalog
from edgespec.chat.session import Chat, Settings
from edgespec.chat.template import ChatTemplate
from edgespec.chat.tokenizer import Tokenizer
from edgespec.decoding.drafters.draft_model import DraftModelDrafter
from edgespec.decoding.drafters.ngram import NgramDrafter
from edgespec.decoding.protocols import Drafter
from edgespec.errors import ModelError, UsageError
from edgespec.runtime.device import DeviceChoice
from edgespec.runtime.model import OnnxCausalLM
from edgespec.runtime.session import use_threads

Progress = Callable[[str, float], None]

MAX_DEFAULT_CONTEXT = 8192
"""Positions. A longer context has to be asked for: its KV cache may not fit into memory."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a model may use. None: as many positions as the model knows (at most MAX_DEFAULT_CONTEXT), as many threads
    as there are cores."""

    context_length: int | None = None
    threads: int | None = None
    device: DeviceChoice = "auto"


def open_chat(
    model: str | None = None,
    *,
    draft: str | None = None,
    settings: Settings | None = None,
    resources: Resources | None = None,
    offline: bool = False,
    progress: Progress = lambda _stage, _fraction: None,
) -> Chat:
    """Open a model for a conversation.

    model: a bundle's name or directory; None is the catalog's default. What the catalog names is fetched if it is
    missing, unless `offline` forbids it. draft: "ngram", "none", or the name of a bundle with the same tokenizer; None
    is what the catalog pairs the model with, else "ngram". progress: hears (stage, fraction 0..1) of a fetch or check.

    Raises: ModelError, DownloadError, ChecksumError, OutOfMemoryError, UsageError.
    """
    settings, resources = settings or Settings(), resources or Resources()
    store = default_store()
    bundle = _find(model, store, offline, progress)
    use_threads(resources.threads)
    tokenizer = Tokenizer.load(bundle.tokenizer)  # before the model, which can then use the memory that parsing freed
    target = open_model(bundle, resources)
    draft = _paired(bundle) if draft is None else draft
    drafter = _make_drafter(draft, bundle, store, target.context_length, resources, progress)
    return Chat(
        target,
        tokenizer,
        ChatTemplate.load(bundle.chat_template, tokenizer),
        bundle.manifest.eos_ids,
        drafter,
        settings,
        model=bundle.name,
        device=target.device.kind,
    )


def open_model(bundle: Bundle, resources: Resources) -> OnnxCausalLM:
    """Load a bundle's graph. Raises: UsageError if the model's context is shorter, ModelError, OutOfMemoryError."""
    known = bundle.manifest.context_length
    wanted = min(known, MAX_DEFAULT_CONTEXT) if resources.context_length is None else resources.context_length
    if not 16 <= wanted <= known:
        raise UsageError(f"a context of {wanted} tokens cannot be had: {bundle.name} takes between 16 and {known}.")
    return OnnxCausalLM.open(
        bundle.graph, context_length=wanted, vocab_size=bundle.manifest.vocab_size, device=resources.device
    )


def _find(model: str | None, store: Store, offline: bool, progress: Progress) -> Bundle:
    catalog = load_catalog()
    name = catalog.default if model is None else model
    if name in catalog.pairs and name not in store.names() and not offline:
        from edgespec.pull import pull  # what a conversion needs is slow to import

        return pull(name, store, progress=progress)
    return store.get(name, progress)


def _paired(bundle: Bundle) -> str:
    """The draft that the catalog pairs the model with."""
    pair = load_catalog().pairs.get(bundle.name)
    return pair.draft if pair else "ngram"


def _make_drafter(
    draft: str,
    target: Bundle,
    store: Store,
    capacity: int,
    resources: Resources,
    progress: Progress,
) -> Drafter | None:
    if draft == "none":
        return None
    if draft == "ngram":
        return NgramDrafter(capacity)
    bundle = store.get(draft, progress)
    if bundle.manifest.tokenizer_sha256 != target.manifest.tokenizer_sha256:
        raise ModelError(
            f"{bundle.name} cannot draft for {target.name}: their tokenizers differ; use --draft ngram or --draft none."
        )
    context = min(capacity, bundle.manifest.context_length)
    model = open_model(bundle, Resources(context, resources.threads, resources.device))
    return DraftModelDrafter(model, bundle.name)
