"""What is tried on this machine, and the processes that try it."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from homes import fill_home

from edgespec.benchmark import Prompt
from edgespec.bundle import Store
from edgespec.bundle.manifest import read_manifest
from edgespec.profile import Profiles, Tuned, tuned_key
from edgespec.runtime.session import default_threads
from edgespec.tuning.machine import Processes, choices, in_force, sample
from edgespec.tuning.worker import Candidate, CandidateError, Worker

CANDIDATE = Candidate("tiny", threads=1, draft="ngram", draft_max=4)
PROMPT = Prompt("1", "qa", ("hello there", "and then"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def store(home: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("EDGESPEC_HOME", str(home))
    return Store(home / "models")


@pytest.fixture
def processes(store: Store) -> Generator[Processes]:
    with Processes("cpu") as processes:
        yield processes
    assert children() == []


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "edgespec.tuning.worker" in child.cmdline()]


def test_drafts_are_smaller_bundles_with_the_same_tokenizer(store: Store) -> None:
    found = choices(store.open("tiny"), store)
    assert list(found.drafts) == ["none", "ngram", "short", "skip"]
    assert found.formats == []
    assert default_threads() in found.threads
    assert sorted(set(found.threads)) == list(found.threads)
    assert min(found.threads) >= 1
    assert "other" not in choices(store.open("short"), store).drafts
    assert "tiny" not in choices(store.open("skip"), store).drafts


def test_formats_are_bundles_of_the_same_weights(store: Store) -> None:
    directory = store.root / "skip"
    manifest = read_manifest(directory)
    try:
        dataclasses.replace(manifest, layers=(0, 1), recipe="another").write(directory)
        assert choices(store.open("tiny"), store).formats == ["skip"]
        dataclasses.replace(manifest, layers=(0, 1)).write(directory)
        assert choices(store.open("tiny"), store).formats == []
    finally:
        manifest.write(directory)


def test_what_is_in_force_is_what_a_chat_would_be_opened_with(store: Store) -> None:
    tiny = store.open("tiny")
    key, profiles = tuned_key(tiny, "cpu"), Profiles(store)
    assert in_force("tiny", tiny, store, "cpu") == Candidate("tiny", default_threads(), "ngram", 8)
    profiles.keep_tuned(key, Tuned(3, "skip", 4))
    assert in_force("tiny", tiny, store, "cpu") == Candidate("tiny", 3, "skip", 4)
    profiles.keep_tuned(key, Tuned(3, "removed", 4))
    assert in_force("tiny", tiny, store, "cpu") == Candidate("tiny", 3, "ngram", 8)
    assert profiles.undo_tuned(key)
    assert profiles.undo_tuned(key)


@pytest.mark.parametrize(("there", "kept"), [(3, 3), (24, 24), (25, 13), (240, 24), (1000, 24)])
def test_many_prompts_are_sampled_evenly(there: int, kept: int) -> None:
    prompts = [Prompt(str(n), "qa", ("hello",)) for n in range(there)]
    found = [int(prompt.question_id) for prompt in sample(prompts)]
    assert len(found) == kept
    assert len({b - a for a, b in pairwise(found)}) == 1
    assert found[0] == 0


def test_candidates_run_side_by_side_each_with_its_own_threads(processes: Processes) -> None:
    two = dataclasses.replace(CANDIDATE, threads=2, draft="skip")
    for candidate in (CANDIDATE, two, CANDIDATE):
        run = processes.run(candidate, PROMPT, 6)
        assert run.tokens == 12
        assert run.ms > 0.0
    assert len(children()) == 2


def test_with_too_little_memory_for_two_the_older_process_ends(store: Store) -> None:
    with Processes("cpu", available=lambda: 0) as processes:
        processes.run(CANDIDATE, PROMPT, 4)
        (first,) = children()
        processes.run(dataclasses.replace(CANDIDATE, draft="none"), PROMPT, 4)
        (second,) = children()
        assert first.pid != second.pid


def test_a_prompt_that_does_not_fit_gives_no_tokens(processes: Processes) -> None:
    assert processes.run(CANDIDATE, Prompt("2", "qa", ("word " * 300,)), 4).tokens == 0
    assert processes.run(CANDIDATE, Prompt("3", "qa", ("hello", "word " * 300)), 4).tokens == 4


def test_what_cannot_run_says_why(processes: Processes) -> None:
    for draft, says in (("other", "cannot draft for tiny"), ("tinny", "there is no model tinny")):
        with pytest.raises(CandidateError, match=says):
            processes.run(dataclasses.replace(CANDIDATE, draft=draft), PROMPT, 4)


def test_a_process_that_dies_is_noticed(store: Store) -> None:
    worker = Worker(CANDIDATE, "cpu")
    try:
        assert worker.memory > 10_000_000
        (child,) = children()
        child.kill()
        with pytest.raises(CandidateError, match="its process ended"):
            worker.run(PROMPT, 4)
    finally:
        worker.close()
