"""Earlier answers on the disk: kept, private, bounded, and never a reason to fail."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from homes import fill_home

from edgespec import engine
from edgespec import history as module
from edgespec.chat.events import Answer
from edgespec.chat.session import Chat, Settings
from edgespec.decoding.costs import Costs, DraftCost
from edgespec.decoding.drafters.history import BREAK
from edgespec.engine import open_chat
from edgespec.history import History
from edgespec.places import history_directory

SHA, VOCAB = "0123456789abcdef" * 4, 1000


def ids(history: History) -> list[int]:
    return history.corpus.ids.tolist()


def opened(directory: Path) -> History:
    return History(directory, SHA, VOCAB, pytest.fail)


def test_what_was_remembered_is_there_the_next_time(tmp_path: Path) -> None:
    first = opened(tmp_path / "history")
    assert not first.path.exists()
    first.remember([*range(20)], 15)
    first.remember([1, 2, 3], 1)
    kept = [*range(7, 20), BREAK, 1, 2, 3, BREAK]  # as many tokens before the answer as a lookup needs
    assert ids(first) == kept
    again = opened(tmp_path / "history")
    assert ids(again)[: len(kept)] == kept
    assert again.corpus.places([7, 8])[1] == [2]


def test_files_are_private_and_one_for_each_tokenizer(tmp_path: Path) -> None:
    for sha in (SHA, SHA[::-1]):
        History(tmp_path / "history", sha, VOCAB).remember([1, 2], 0)
    files = list((tmp_path / "history").iterdir())
    assert len(files) == 2
    assert {f.stat().st_mode & 0o777 for f in files} == {0o600}
    assert (tmp_path / "history").stat().st_mode & 0o777 == 0o700


def test_a_torn_end_is_dropped_and_written_over(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.remember([1, 2, 3], 0)
    with first.path.open("ab") as file:
        file.write(np.array([4, 5], "<i4").tobytes()[:-1])
    again = opened(tmp_path)
    assert ids(again)[:5] == [1, 2, 3, BREAK, 4]
    again.remember([6, 7], 0)
    assert np.fromfile(first.path, "<i4").tolist() == [1, 2, 3, BREAK, 4, 6, 7, BREAK]


def test_what_is_no_token_of_the_model_is_never_proposed(tmp_path: Path) -> None:
    path = opened(tmp_path).path
    np.array([1, 2, VOCAB, 3, -7, 4, 2**31 - 1], "<i4").tofile(path)
    assert ids(opened(tmp_path))[:7] == [1, 2, BREAK, 3, BREAK, 4, BREAK]


def test_a_file_that_grew_too_long_keeps_the_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LATEST", 30)
    monkeypatch.setattr(module, "_MOST_BYTES", 4 * 60)
    history = opened(tmp_path)
    for n in range(100):
        history.remember([n, n, n, n], 0)
        assert history.path.stat().st_size <= 4 * 65
    assert np.fromfile(history.path, "<i4").tolist()[-5:] == [99, 99, 99, 99, BREAK]
    assert history.path.stat().st_mode & 0o777 == 0o600
    assert ids(opened(tmp_path))[-6:-1] == [99, 99, 99, 99, BREAK]
    assert [p.name for p in tmp_path.iterdir()] == [history.path.name]


WRITER = """
import sys
from pathlib import Path
from edgespec import history
history._MOST_BYTES, history._LATEST = 4 * int(sys.argv[4]), 3000
mine = history.History(Path(sys.argv[1]), sys.argv[2], 1000)
for n in range(300):
    mine.remember([int(sys.argv[3])] * 9, 0)
"""


@pytest.mark.parametrize("most", [4000, 10**6], ids=["rewritten now and then", "long enough for all"])
def test_two_programs_at_once_tear_nothing(tmp_path: Path, most: int) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path), SHA]
    running = [subprocess.Popen([*command, str(n), str(most)]) for n in (5, 6)]
    assert [p.wait(60) for p in running] == [0, 0]
    found = np.fromfile(opened(tmp_path).path, "<i4")
    texts = [t.tolist() for t in np.split(found, np.flatnonzero(found == BREAK) + 1)]
    assert all(t in ([5] * 9 + [BREAK], [6] * 9 + [BREAK]) for t in texts[1:-1])
    assert len(texts) > 300 if most == 4000 else len(texts) == 601  # nothing stands behind the last


def test_a_full_disk_keeps_what_was_there_and_is_told_once(tmp_path: Path) -> None:
    heard: list[str] = []
    history = History(tmp_path, SHA, VOCAB, heard.append)
    history.remember([1, 2, 3], 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (22, hard))  # Python ignores SIGXFSZ, so that writing fails
    try:
        history.remember([4, 5, 6], 0)
        history.remember([7, 8, 9], 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert np.fromfile(history.path, "<i4").tolist() == [1, 2, 3, BREAK]
    assert history.corpus.places([7, 8])[0] == 2  # while the program runs it is looked up all the same
    assert len(heard) == 1
    assert str(history.path) in heard[0]


@pytest.mark.parametrize("kind", ["directory", "link", "pipe"])
def test_what_is_no_plain_file_is_left_alone(tmp_path: Path, kind: str) -> None:
    heard: list[str] = []
    path = History(tmp_path, SHA, VOCAB).path
    other = tmp_path / "canary"
    other.write_bytes(b"canary.")
    {"directory": path.mkdir, "link": lambda: path.symlink_to(other), "pipe": lambda: os.mkfifo(path)}[kind]()
    history = History(tmp_path, SHA, VOCAB, heard.append)
    history.remember([1, 2, 3], 0)
    assert len(heard) == 1
    assert other.read_bytes() == b"canary."
    assert history.corpus.places([1, 2])[0] == 2


# With a model.


@pytest.fixture(scope="module")
def full_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def home(full_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESPEC_HOME", str(full_home))
    # Whether drafts pay for so small a model depends on the clock: here they do.
    drafts = {name: DraftCost(0.01) for name in ("history", "ngram")}
    costs = Costs((10, 20), ((10.0,) * 9, (10.0,) * 9), (10.0, 10.0), drafts)
    monkeypatch.setattr(engine, "measure_costs", lambda *_args, **_more: costs)
    return full_home


def ask(chat: Chat) -> Answer:
    *_, answer = chat.send("hello there")
    assert isinstance(answer, Answer)
    return answer


def test_a_question_asked_again_is_drafted_from_the_answer_that_it_had(home: Path, tmp_path: Path) -> None:
    settings = Settings(max_tokens=40)
    first = ask(open_chat("tiny", settings=settings, history=tmp_path))
    second = ask(open_chat("tiny", settings=settings, history=tmp_path))
    plain = ask(open_chat("tiny", draft="none", settings=settings, history=tmp_path))
    assert first.tokens == second.tokens == plain.tokens
    assert first.stats.arms["history"] == 0
    assert second.stats.arms["history"] > 0


def test_a_stopped_answer_is_remembered_too(home: Path, tmp_path: Path) -> None:
    chat = open_chat("tiny", settings=Settings(max_tokens=40), history=tmp_path)
    events = chat.send("hello there")
    for event in events:
        if type(event).__name__ == "TextDelta":
            chat.stop()
    (file,) = tmp_path.iterdir()
    assert np.fromfile(file, "<i4")[-1] == BREAK


def test_without_a_directory_nothing_is_kept(home: Path) -> None:
    ask(open_chat("tiny", settings=Settings(max_tokens=8)))
    assert not history_directory().exists()
