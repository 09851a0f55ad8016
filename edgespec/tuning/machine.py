"""What this machine has to choose from, and the processes that try it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import psutil

from edgespec.benchmark import Prompt
from edgespec.bundle import Bundle, ForeignBundle, Store
from edgespec.chat.session import DRAFT_MAX
from edgespec.engine import paired_draft
from edgespec.foreign_graph import draft_obstacle
from edgespec.profile import Profiles, tuned_key
from edgespec.runtime.device import DeviceChoice
from edgespec.runtime.session import default_threads
from edgespec.tuning.search import Choices
from edgespec.tuning.worker import Candidate, Run, Worker

_MOST_PROCESSES = 6
_SPARE = 1.25
"""A process is expected to take so many times what another one took."""
_DRAFT_MAX = (4, DRAFT_MAX, 12)


def in_force(reference: str, bundle: Bundle | ForeignBundle, store: Store, device: DeviceChoice) -> Candidate:
    """The settings that a chat with `bundle`, which `reference` leads to, has without flags."""
    tuned = Profiles(store).tuned(tuned_key(bundle, device))
    here = ("none", "ngram", *store.names())
    if tuned is not None and tuned.draft in here:
        return Candidate(reference, tuned.threads, tuned.draft, tuned.draft_max)
    threads = tuned.threads if tuned else default_threads()
    silent = isinstance(bundle, ForeignBundle) and draft_obstacle(bundle) is not None
    return Candidate(reference, threads, "none" if silent else paired_draft(bundle, store), DRAFT_MAX)


def choices(bundle: Bundle | ForeignBundle, store: Store) -> Choices:
    """All that could be faster for `bundle` with what is on this machine."""
    if isinstance(bundle, ForeignBundle) and draft_obstacle(bundle) is not None:
        return Choices(_thread_counts(), (), (), ())
    others = [other for other in store.list() if other.directory != bundle.directory]
    drafts = [other.name for other in others if _may_draft(other, bundle)]
    formats = [other.name for other in others if isinstance(bundle, Bundle) and _same_model(other, bundle)]
    return Choices(_thread_counts(), ("none", "ngram", *drafts), _DRAFT_MAX, formats)


def sample(prompts: Sequence[Prompt], most: int = 24) -> list[Prompt]:
    """At most so many of them, evenly spread."""
    step = max(-(-len(prompts) // most), 1)
    return list(prompts[::step])


class Processes:
    """Runs candidates, each in a process of its own. Processes stay while there is memory for them, so that a model
    is not loaded for every prompt; use it as a context manager, which ends them all."""

    def __init__(self, device: DeviceChoice, available: Callable[[], int] = lambda: psutil.virtual_memory().available):
        self._device: DeviceChoice = device
        self._available = available
        self._workers: dict[Candidate, Worker] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        while self._workers:
            self._end(next(iter(self._workers)))

    def run(self, candidate: Candidate, prompt: Prompt, max_tokens: int) -> Run:
        worker = self._workers.pop(candidate, None)
        if worker is None:
            self._make_room()
            worker = Worker(candidate, self._device)
        self._workers[candidate] = worker  # the last of all is the one used last
        return worker.run(prompt, max_tokens)

    def _make_room(self) -> None:
        while self._workers:
            largest = max(worker.memory for worker in self._workers.values())
            if len(self._workers) < _MOST_PROCESSES and self._available() > _SPARE * largest:
                break
            self._end(next(iter(self._workers)))

    def _end(self, candidate: Candidate) -> None:
        self._workers.pop(candidate).close()


def _thread_counts() -> tuple[int, ...]:
    """All hardware threads that this process may use, one per core, one core less, and half of them."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = default_threads()
    return tuple(sorted({allowed, cores, max(cores - 1, 1), max(cores // 2, 1)}))


def _may_draft(draft: Bundle, target: Bundle | ForeignBundle) -> bool:
    """A larger model cannot be worth its time."""
    weights = target.manifest.size if isinstance(target, Bundle) else draft.manifest.size + 1
    return draft.tokenizer_sha256 == target.tokenizer_sha256 and draft.manifest.size < weights


def _same_model(other: Bundle, bundle: Bundle) -> bool:
    mine, theirs = bundle.manifest, other.manifest
    return theirs.source.sha256 == mine.source.sha256 and theirs.layers == mine.layers and theirs.recipe != mine.recipe
