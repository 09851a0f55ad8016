"""What somebody who chooses a model or a draft wants to know of each, without loading any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import psutil

from edgespec.bundle import Bundle, Store, default_store
from edgespec.bundle.catalog import load_catalog
from edgespec.chat.tokenizer import Tokenizer
from edgespec.config import Value
from edgespec.decoding.prediction import best_speedup
from edgespec.engine import MEASURED_DRAFT, paired_draft
from edgespec.errors import EdgespecError
from edgespec.opening import LEAST_CONTEXT, MAX_DEFAULT_CONTEXT, needs_of_bundle
from edgespec.profile import Profiles, profile_key
from edgespec.runtime.device import DeviceKind, likely_device
from edgespec.runtime.room import Needs, available_memory
from edgespec.runtime.session import use_threads
from edgespec.shapes import find_shape

ACCEPTANCE = 0.6
"""How often proposals are accepted in what is predicted: what good drafts reach."""
CONTEXT = 512


@dataclass(frozen=True, slots=True)
class Choice:
    """A model, or a draft. `name` as `open_chat` takes it.

    here: whether nothing has to be fetched. size, memory: bytes, of the files and in memory; 0 for what has none.
    speedup: predicted at ACCEPTANCE from what was measured on this machine, None where nothing was. obstacle: why it
    cannot be chosen. about: what else there is to say. target: the model that it drafts for, if it can do nothing else.
    """

    name: str
    here: bool = True
    size: int = 0
    memory: int = 0
    draft: str | None = None
    speedup: float | None = None
    obstacle: str | None = None
    about: str = ""
    target: str | None = None


def model_choices(store: Store) -> list[Choice]:
    """The models of this machine, then those of the catalog that are not here."""
    available = psutil.virtual_memory().available
    here = [choice for name in store.names() if (choice := _here(name, store)).target is None]
    pairs = [pair for name, pair in load_catalog().pairs.items() if name not in store.names()]
    there = [
        Choice(
            pair.name,
            here=False,
            size=pair.download,
            memory=pair.memory,
            draft=pair.draft,
            obstacle=None if pair.memory < available else _too_large(pair.memory, available),
            about=f"{pair.title}, {pair.license}; {pair.suits}",
        )
        for pair in pairs
    ]
    return [*here, *there]


def draft_choices(model: str, store: Store) -> list[Choice]:
    """What could draft for the bundle `model`, and what could not, and why. Raises: EdgespecError if it is damaged."""
    target = store.open(model)
    vocabulary = None
    found = [
        Choice("ngram", speedup=_speedup(target, "ngram", store), about="looked up in what was said; costs nothing"),
        Choice("none", speedup=1.0, about="plain decoding"),
    ]
    for name in store.names():
        if name == model:
            continue
        choice = _here(name, store)
        if choice.obstacle is None:
            draft = store.open(name)
            same = draft.tokenizer_sha256 == target.tokenizer_sha256
            if not same and choice.target is None:
                vocabulary = vocabulary or Tokenizer.load(target.tokenizer).vocabulary()
                same = Tokenizer.load(draft.tokenizer).vocabulary() == vocabulary
            choice = _as_draft(draft, target, choice, same, store)
        found.append(choice)
    return found


def fits_beside(values: Mapping[str, Value]) -> bool:
    """Whether the model and draft that the config's `values` name fit into memory beside what runs already."""
    store = default_store()
    names = {str(values.get("model", load_catalog().default)), str(values.get("draft", ""))} & {*store.names()}
    needed = 0
    for name in names:
        try:
            needed += memory_of(store.open(name))
        except EdgespecError:
            continue  # opening it will say what is wrong
    return needed < psutil.virtual_memory().available


def predict_here(choice: Choice) -> str:
    """Whether a model of that name could be faster with its draft on this machine, in a sentence; takes seconds.

    Raises: UsageError for a model whose shape is not known, OutOfMemoryError, GenerationError.
    """
    from edgespec.pairing import predict  # what building a graph needs is slow to import

    target = find_shape(choice.name)
    # What is no model of the catalog costs next to nothing.
    draft = find_shape(choice.draft) if choice.draft and choice.draft in load_catalog().pairs else None
    available = psutil.virtual_memory().available
    return predict(target, draft, available, weights="int8", device="auto").verdict


def memory_of(bundle: Bundle) -> int:
    """Bytes that a bundle will take with the context that it gets unless another is asked for, as they are counted when
    it is opened. A table, which has no graph, is as large as its file."""
    return _memory(bundle, _needs(bundle))


def _memory(bundle: Bundle, needs: Needs | None) -> int:
    return needs.total(min(bundle.context_length, MAX_DEFAULT_CONTEXT)) if needs else bundle.manifest.size


def _needs(bundle: Bundle) -> Needs | None:
    return None if bundle.manifest.table else needs_of_bundle(bundle, _device_for(bundle))


def _device_for(bundle: Bundle) -> DeviceKind:
    return likely_device("auto") if bundle.manifest.half_precision else "cpu"


def _obstacle(bundle: Bundle, needs: Needs | None) -> str | None:
    """Why it cannot be opened: not even the shortest context that a model is opened with fits beside its weights."""
    available = available_memory(_device_for(bundle))
    if needs is None or available is None:
        return None
    least = needs.total(min(bundle.context_length, LEAST_CONTEXT))
    return None if least <= available else _too_large(least, available)


def _here(name: str, store: Store) -> Choice:
    try:
        bundle = store.open(name)
    except EdgespecError as error:
        return Choice(name, obstacle=str(error))
    draft, needs = paired_draft(bundle, store), _needs(bundle)
    about = f"{bundle.manifest.recipe}, {bundle.manifest.license or 'licence unknown'}"
    made_for = bundle.manifest.made_for
    if made_for is not None:
        about += f"; made to draft for {made_for.target}"
    elif bundle.manifest.quality is None:
        about += "; some layers of a model, made to draft"
    return Choice(
        name,
        size=bundle.manifest.size,
        memory=_memory(bundle, needs),
        draft=draft,
        speedup=_speedup(bundle, draft, store),
        obstacle=_obstacle(bundle, needs),
        about=about,
        target=made_for.target if made_for else None,
    )


def _as_draft(draft: Bundle, target: Bundle, choice: Choice, same_tokens: bool, store: Store) -> Choice:
    obstacle = None
    if not same_tokens:
        obstacle = f"its tokenizer is not that of {target.name}"
    elif draft.manifest.size >= target.manifest.size:
        obstacle = f"it is no smaller than {target.name}, so it cannot make it faster"
    about = choice.about
    if draft.context_length < min(target.context_length, MAX_DEFAULT_CONTEXT):
        about = f"drafts only for the first {draft.context_length} tokens; {about}"
    speedup = _speedup(target, draft.name, store)
    return replace(choice, draft=None, speedup=speedup, obstacle=obstacle, about=about)


def _speedup(target: Bundle, draft: str, store: Store) -> float | None:
    """What a draft promises by the costs that were measured when the two ran here last."""
    try:
        drafts = [] if draft == "ngram" else [store.open(draft)]
        device, threads = "cpu", use_threads(None)
        costs = Profiles(store).costs(profile_key(target, drafts, device=device, threads=threads, k_max=MEASURED_DRAFT))
    except EdgespecError:
        return None
    if costs is None or draft not in costs.drafts:
        return None
    return best_speedup(costs.at(CONTEXT, exact=False), costs.drafts[draft].token, ACCEPTANCE)[1]


def _too_large(needed: int, available: int) -> str:
    return f"it needs {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are free"
