"""From a model's name to a chat: opens bundles, makes the drafters, checks that they fit."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from weakref import ref

from edgespec.bundle import Bundle, ForeignBundle, HeadRecord, Store, TableRecord, default_store
from edgespec.bundle.catalog import load_catalog
from edgespec.bundle.foreign import is_foreign, open_foreign
from edgespec.bundle.manifest import CUDA_SUFFIX
from edgespec.chat.session import Chat, Settings, forget
from edgespec.chat.template import ChatTemplate
from edgespec.chat.tokenizer import Tokenizer
from edgespec.decoding.calibrate import measure_costs
from edgespec.decoding.controller import Controller
from edgespec.decoding.costs import Costs
from edgespec.decoding.drafters.draft_model import DraftModelDrafter
from edgespec.decoding.drafters.eagle import EagleDrafter
from edgespec.decoding.drafters.guided import GuidedDrafter
from edgespec.decoding.drafters.history import HistoryDrafter
from edgespec.decoding.drafters.ngram import NgramDrafter
from edgespec.decoding.drafters.ngram_table import NgramTableDrafter, read_table
from edgespec.decoding.protocols import Drafter, Policy
from edgespec.decoding.tree import Branching
from edgespec.errors import ModelError, OutOfMemoryError, UsageError
from edgespec.foreign_graph import draft_obstacle, exact_mode_holds
from edgespec.history import History
from edgespec.opening import Notice, Resources, open_head, open_model
from edgespec.profile import Profiles, Tuned, profile_key, tuned_key
from edgespec.runtime.device import DeviceChoice, DeviceKind, likely_device
from edgespec.runtime.model import OnnxCausalLM
from edgespec.runtime.recurrent import OnnxRecurrentHead, hidden_size_read
from edgespec.runtime.session import use_threads

Progress = Callable[[str, float], None]
MEASURED_DRAFT = 8
"""Drafts up to this length are measured, even if shorter ones were asked for: the next time it may be others."""


def open_chat(
    model: str | None = None,
    *,
    draft: str | None = None,
    settings: Settings | None = None,
    resources: Resources | None = None,
    history: Path | None = None,
    offline: bool = False,
    progress: Progress = lambda _stage, _fraction: None,
    notice: Notice = lambda _text: None,
) -> Chat:
    """Open a model for a conversation.

    model: a bundle's name or directory, or a folder or ONNX file that somebody else exported; None is the catalog's
    default. What the catalog names is fetched if it is missing, unless `offline` forbids it. draft: "ngram", "none", or
    such a model with the same tokenizer, a table of what such a model says, or a head of this model; None is what
    `edgespec tune` found, else what the catalog pairs the model with, else "ngram". history: the directory where
    answers are kept for later drafts to be looked up in, while there is a draft at all; None keeps nothing. progress:
    hears (stage, fraction 0..1) of a fetch or check. notice: hears what a user should know, a sentence each.

    Raises: ModelError, DownloadError, ChecksumError, OutOfMemoryError, UsageError.
    """
    settings, resources = settings or Settings(), resources or Resources()
    store = default_store()
    bundle = open_bundle(model, store, resources.device, offline, progress)
    tuned = Profiles(store).tuned(tuned_key(bundle, resources.device))
    use_threads(resources.threads, tuned.threads if tuned else None)
    tokenizer = Tokenizer.load(bundle.tokenizer)  # before the model, which can then use the memory that parsing freed
    target = open_model(bundle, resources, notice)
    if settings.draft_branches > 1 and not target.takes_trees:
        raise UsageError(f"{bundle.name} takes no draft with branches; use --draft-branches 1, or pull it again.")
    if isinstance(bundle, ForeignBundle):
        notice(f"{bundle.name}: running {bundle.graph.relative_to(bundle.directory)}")
        draft, settings = _limit(bundle, target, draft, settings, notice)
    elif target.device.kind != "cpu":  # its kernels differ by the number of rows, and by the GPU
        settings = _exact_as_far_as_it_holds(bundle, target, settings, notice)
    draft, settings = _tuned(tuned, draft, settings, store)
    draft = paired_draft(bundle, store) if draft is None else draft
    policy: Policy | None = None
    remember = forget
    if draft != "none":
        drafting = _make_drafters(draft, bundle, tokenizer, store, target, resources, progress, notice)
        drafters = drafting.drafters
        if history is not None:
            earlier = History(history, bundle.tokenizer_sha256, bundle.vocab_size, notice)
            drafters, remember = [HistoryDrafter(earlier.corpus), *drafters], earlier.remember
        costs = _costs(bundle, drafting, target, drafters, settings.longest_draft, store, progress)
        policy = Controller(drafters, costs, exact=settings.exact_mode, name=drafters[-1].name)
        if settings.draft_branches > 1:
            policy = Branching(policy, settings.draft_branches - 1)
    chat = Chat(
        target,
        tokenizer,
        ChatTemplate(bundle.chat_template, tokenizer),
        bundle.eos_ids,
        policy,
        settings,
        model=bundle.name,
        device=target.device.kind,
        remember=remember,
    )
    target.on_move = partial(_moved, bundle.name, notice, ref(chat))
    return chat


def _moved(name: str, notice: Notice, chat: ref[Chat] | None, reason: str) -> None:
    """Say that a model has left its device. It is held by who says so: hence the weak reference."""
    if chat is not None and (found := chat()) is not None:
        found.device = "cpu"
    notice(f"{name}: {reason}, so it goes on on the CPU")


def find_bundle(reference: str, store: Store, device: DeviceChoice, progress: Progress) -> Bundle | ForeignBundle:
    """A bundle of the store, or what is at a path: a bundle whose hashes are right, or what somebody else exported.

    Raises: ModelError, ChecksumError, UsageError.
    """
    if os.sep in reference and is_foreign(path := Path(reference).expanduser().absolute()):
        return open_foreign(path, likely_device(device))
    return store.get(reference, progress)


def open_bundle(
    model: str | None, store: Store, device: DeviceChoice, offline: bool, progress: Progress
) -> Bundle | ForeignBundle:
    """As `find_bundle`; None is the catalog's default, and what the catalog names is fetched if it may be.

    Raises: as `find_bundle`; DownloadError.
    """
    catalog = load_catalog()
    name = catalog.default if model is None else model
    if name in catalog.pairs and name not in store.names() and not offline:
        from edgespec.pull import pull  # what a conversion needs is slow to import

        return pull(name, store, progress=progress)
    bundle = find_bundle(name, store, device, progress)
    if isinstance(bundle, Bundle) and (made_for := bundle.manifest.made_for) is not None:
        use = f"edgespec run {made_for.target} --draft {bundle.name}"
        raise ModelError(f"{bundle.name} only drafts: use it as `{use}`.")
    return bundle


def _limit(
    bundle: ForeignBundle, target: OnnxCausalLM, draft: str | None, settings: Settings, notice: Notice
) -> tuple[str | None, Settings]:
    """Draft and settings as far as the graph can be trusted with them. UsageError if more was asked for outright."""
    if (obstacle := draft_obstacle(bundle)) is not None:
        if draft not in (None, "none") or settings.exact:
            raise UsageError(f"{obstacle}; use --draft none and no --exact, or another file of the model.")
        notice(f"{obstacle}, so it runs without speculation")
        return "none", replace(settings, exact=False)
    return draft, _exact_as_far_as_it_holds(bundle, target, settings, notice)


def _exact_as_far_as_it_holds(
    bundle: Bundle | ForeignBundle, target: OnnxCausalLM, settings: Settings, notice: Notice
) -> Settings:
    """The settings without exact mode where it does not hold. UsageError if it was asked for outright."""
    if exact_mode_holds(bundle, target) or not settings.exact_mode:
        return settings
    obstacle = f"exact mode does not hold for {bundle.name} here: how a text is split into passes changes the last bits"
    if settings.exact:
        raise UsageError(f"{obstacle}; leave out --exact, or pull the model in edgespec's own format.")
    notice(f"{obstacle}, so the text may depend on the draft")
    return replace(settings, exact=False)


def _tuned(tuned: Tuned | None, draft: str | None, settings: Settings, store: Store) -> tuple[str | None, Settings]:
    """Draft and settings as tuned, where nobody asked for others, and as far as the tuned draft is still here."""
    if tuned is None or draft not in (None, tuned.draft) or tuned.draft not in ("none", "ngram", *store.names()):
        return draft, settings
    longest = tuned.draft_max if settings.draft_max is None else settings.draft_max
    return tuned.draft, replace(settings, draft_max=longest)


def paired_draft(bundle: Bundle | ForeignBundle, store: Store) -> str:
    """The draft that the model was exported with or that the catalog pairs it with, if it is here; for a GPU one that
    is made for it too, if that is here."""
    suffix = CUDA_SUFFIX if bundle.name.endswith(CUDA_SUFFIX) else ""
    pair = load_catalog().pairs.get(bundle.name.removesuffix(suffix))
    exported = bundle.manifest.draft if isinstance(bundle, Bundle) else None
    draft = exported or (pair.draft if pair else "ngram")
    return next((name for name in (draft + suffix, draft) if name in store.names()), "ngram")


@dataclass(frozen=True, slots=True)
class _Drafting:
    """What drafts: the drafters, the bundles that they were made of, and what those compute on."""

    drafters: list[Drafter]
    bundles: tuple[Bundle | ForeignBundle, ...] = ()
    devices: tuple[DeviceKind, ...] = ()


def _make_drafters(
    draft: str,
    bundle: Bundle | ForeignBundle,
    tokenizer: Tokenizer,
    store: Store,
    target: OnnxCausalLM,
    resources: Resources,
    progress: Progress,
    notice: Notice,
) -> _Drafting:
    """Looking up costs next to nothing, so it stands in front of every other drafter: in what was said, and, unless
    that is all that is wanted, in a table of what this very model says, if there is one. It is all there is if memory
    does not hold a draft beside the target."""
    if draft == "ngram":
        return _Drafting([NgramDrafter()])
    device = resources.for_draft
    found = find_bundle(draft, store, device, progress)
    made_for = found.manifest.made_for if isinstance(found, Bundle) else None
    if found.tokenizer_sha256 != bundle.tokenizer_sha256 and (
        made_for is not None or Tokenizer.load(found.tokenizer).vocabulary() != tokenizer.vocabulary()
    ):
        raise ModelError(
            f"{found.name} cannot draft for {bundle.name}: their tokenizers differ; use --draft ngram or --draft none."
        )
    if isinstance(found, Bundle) and isinstance(made_for, TableRecord):
        return _Drafting(_lookups([found], target, alone=True), (found,), ("cpu",))
    tables = [store.get(table.name, progress) for table in _tables_of(bundle, store)]
    drafters = _lookups(tables, target, alone=False)
    context = min(target.context_length, found.context_length)
    used = Resources(context, resources.threads, device)
    try:
        if isinstance(made_for, HeadRecord):
            loaded = open_head(found, made_for.window, bundle.graph, used, notice, beside=target)
            drafter: Drafter = EagleDrafter(target, loaded, found.name)
        else:
            loaded = open_model(found, used, notice, beside=target)
            drafter = DraftModelDrafter(loaded, found.name)
    except OutOfMemoryError as error:
        notice(f"{found.name} does not draft, for want of memory: {str(error).rpartition(';')[0]}")
        return _Drafting(drafters)
    loaded.on_move = partial(_moved, found.name, notice, None)
    return _Drafting([*drafters, drafter], (found,), (loaded.device.kind,))


def _tables_of(bundle: Bundle | ForeignBundle, store: Store) -> list[Bundle]:
    made = [other for other in store.list() if other.manifest.drafts_for(bundle.name, bundle.tokenizer_sha256)]
    return [other for other in made if other.manifest.table is not None]


def _lookups(tables: Sequence[Bundle], target: OnnxCausalLM, *, alone: bool) -> list[Drafter]:
    """Lookup in what was said and in tables; where one brings a head for such a target, as that guides it. alone: no
    draft stands behind them that draws its proposals."""
    lookups: list[Drafter] = [NgramDrafter()]
    lookups += [NgramTableDrafter(read_table(table.graph), target.vocab_size, table.name) for table in tables]
    if target.device.kind != "cpu":  # reading hidden states from there would cost more than a guide gains
        return lookups
    for table in tables:
        if table.guide is not None and hidden_size_read(table.guide) == target.hidden_size:
            guide = OnnxRecurrentHead.open(table.guide, vocab_size=target.vocab_size)
            return [GuidedDrafter(lookups, guide, target, table.name, foresees=alone)]
    return lookups


def _costs(
    target: Bundle | ForeignBundle,
    drafting: _Drafting,
    model: OnnxCausalLM,
    drafters: Sequence[Drafter],
    draft_max: int,
    store: Store,
    progress: Progress,
) -> Costs:
    """What passes and proposals cost here: measured now, or when they ran here before."""
    k_max = max(draft_max, MEASURED_DRAFT)
    k_max = max(min(k_max, model.context_length - 3), 1)
    places = "+".join(dict.fromkeys((model.device.kind, *drafting.devices)))
    key = profile_key(target, drafting.bundles, device=places, threads=use_threads(None), k_max=k_max)
    profiles = Profiles(store)
    found = profiles.costs(key)
    if found is None or not {d.name for d in drafters} <= found.drafts.keys():
        found = measure_costs(model, drafters, k_max=k_max, progress=lambda done: progress("Measuring the speed", done))
        profiles.keep_costs(key, found)
    return found
