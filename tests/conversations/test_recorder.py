"""What is said is kept while it is said: through kills, full disks and locks, branches and other models."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from homes import fill_home
from speakers import Parrot, say, texts

from edgespec.chat.conversation import Message
from edgespec.chat.events import TextDelta
from edgespec.chat.session import Chat, Settings
from edgespec.conversations import FILE, database
from edgespec.conversations.figures import to_answer
from edgespec.conversations.recorder import Recorder
from edgespec.conversations.store import ConversationStore
from edgespec.engine import open_chat

UNSAVED = "this conversation is not saved: "


def kept(recorder: Recorder) -> ConversationStore:
    assert recorder.directory is not None
    recorder.flush()
    return ConversationStore(recorder.directory, pytest.fail)


def test_a_conversation_comes_back_as_it_was(recorder: Recorder) -> None:
    answer = say(recorder, Parrot("Be brief."), "Why is it so?", "And then what?")
    store = kept(recorder)
    (found,) = store.list()
    assert (found.title, found.model, found.messages) == ("Why is it so?", "parrot", 4)
    conversation = store.load(found.id)
    assert conversation == recorder.conversation
    last = conversation.path()[-1]
    assert to_answer(last) == answer
    assert (last.model, last.draft, last.system, last.finish) == ("parrot", "ngram", "Be brief.", "stop")


def test_figures_that_are_damaged_are_no_answer(recorder: Recorder) -> None:
    say(recorder, Parrot(), "Why?")
    entry = recorder.conversation.path()[-1]
    assert entry.figures is not None
    for figures in ({}, {"stats": []}, entry.figures | {"stats": {}}, entry.figures | {"stats": {"arms": 3}}):
        object.__setattr__(entry, "figures", figures)
        assert to_answer(entry) is None


def test_the_question_is_kept_before_the_answer_begins(recorder: Recorder) -> None:
    recorder.begin("Why is it so?")
    assert [texts(kept(recorder).load(f.id)) for f in kept(recorder).list()] == [["Why is it so?", ""]]


def test_each_round_is_kept(recorder: Recorder) -> None:
    recorder.begin("one two three")
    said = ""
    for event in recorder.answer(Parrot(), "one two three"):
        said += getattr(event, "text", "") if type(event).__name__ == "TextDelta" else ""
        (found,) = kept(recorder).list()
        assert kept(recorder).load(found.id).path()[-1].text == said


def test_what_is_about_to_be_shown_is_kept_when_told(recorder: Recorder) -> None:
    recorder.begin("one two three")
    (found,) = kept(recorder).list()
    said = ""
    for event in recorder.answer(Parrot(), "one two three", keep_each=False):
        if isinstance(event, TextDelta):
            before, said = said, said + event.text
            assert kept(recorder).load(found.id).path()[-1].text == before
            recorder.keep()
            assert kept(recorder).load(found.id).path()[-1].text == said
    recorder.keep()  # too late: the answer has ended, and stays as it did
    assert kept(recorder).load(found.id) == recorder.conversation


def test_what_was_never_answered_was_never_said(recorder: Recorder) -> None:
    recorder.begin("wait")
    recorder.take_back()
    assert kept(recorder).list() == []
    parrot = Parrot()
    parrot.fails_after = 0
    recorder.begin("wait")
    with pytest.raises(OSError, match="perch"):
        list(recorder.answer(parrot, "wait"))
    assert kept(recorder).list() == []
    assert recorder.conversation.title == ""
    parrot.fails_after = None
    say(recorder, parrot, "now")
    assert kept(recorder).list()[0].title == "now"


def test_an_answer_that_broke_off_keeps_what_was_said(recorder: Recorder) -> None:
    parrot = Parrot()
    parrot.fails_after = 2
    recorder.begin("one two three")
    with pytest.raises(OSError, match="perch"):
        list(recorder.answer(parrot, "one two three"))
    (found,) = kept(recorder).list()
    entry = kept(recorder).load(found.id).path()[-1]
    assert (entry.text, entry.ids, entry.finish) == ("one two ", (0, 1, 1, 2), "failed")


def test_asking_again_and_asking_otherwise_lose_nothing(recorder: Recorder) -> None:
    parrot = Parrot()
    say(recorder, parrot, "first", "second")
    assert recorder.rewind() == "second"
    say(recorder, parrot, "second")  # again
    assert [m.content.strip() for m in parrot.messages] == ["first", "first", "second", "second"]
    recorder.rewind()
    say(recorder, parrot, "other", "third")
    (found,) = kept(recorder).list()
    tree = kept(recorder).load(found.id)
    seen = list[list[str]]()
    for leaf in tree.branches():
        tree.leaf = leaf
        seen.append(texts(tree)[2:])
    assert seen == [["second", "second"], ["second", "second"], ["other", "other", "third", "third"]]
    assert found.messages == 9  # one question has two answers


def test_walking_between_branches(recorder: Recorder) -> None:
    parrot = Parrot()
    say(recorder, parrot, "first")
    assert not recorder.walk(-1)
    assert not recorder.walk(1)
    recorder.rewind()
    say(recorder, parrot, "other")
    assert recorder.walk(-1)
    (found,) = kept(recorder).list()
    assert texts(kept(recorder).load(found.id)) == ["first", "first"]  # what was read last opens again
    say(recorder, parrot, "more")
    assert [m.content.strip() for m in parrot.messages] == ["first", "first", "more", "more"]
    assert not recorder.walk(-1)
    recorder.rewind()  # between branches, the way leads to the latest
    assert recorder.walk(1)
    assert texts(recorder.conversation) == ["other", "other"]


def test_nothing_to_rewind(recorder: Recorder) -> None:
    assert recorder.rewind() is None


def resumed(recorder: Recorder) -> Recorder:
    store = kept(recorder)
    again = Recorder(None)
    again.open(store.load(store.list()[0].id))
    return again


def test_ids_go_back_only_to_the_tokenizer_that_they_are_of(recorder: Recorder) -> None:
    parrot = Parrot("Be brief.")
    say(recorder, parrot, "one two")
    parrot.cut = True
    say(recorder, parrot, "three")
    before = list(parrot.messages)
    same, other = Parrot(), Parrot("Be someone else.")
    other.tokenizer_sha256 = "b" * 64  # pyright: ignore[reportAttributeAccessIssue]
    say(resumed(recorder), same, "four")
    assert same.messages[:-2] == before
    say(resumed(recorder), other, "four")
    assert other.messages[0] == Message("system", "Be brief.")
    assert [m.ids for m in other.messages[:-2]] == [None] * 5
    assert [m.content for m in other.messages[:-2]] == [m.content for m in before]


def test_another_speaker_is_told_what_was_said(recorder: Recorder) -> None:
    say(recorder, Parrot("Be brief."), "one")
    other = Parrot("Be someone else.")
    say(recorder, other, "two")
    assert [m.content.strip() for m in other.messages] == ["Be someone else.", "one", "one", "two", "two"]


def test_what_a_speaker_was_made_to_forget_is_not_told_again(recorder: Recorder) -> None:
    parrot = Parrot("Be brief.")
    say(recorder, parrot, "one", "two")
    del parrot.messages[1:3]  # the context was full, say
    parrot.messages[0] = Message("system", "Be kind.")
    say(recorder, parrot, "three")
    assert [m.content.strip() for m in parrot.messages] == ["Be kind.", "two", "two", "three", "three"]
    assert recorder.conversation.path()[-1].system == "Be kind."


def test_a_new_conversation_is_about_nothing(recorder: Recorder) -> None:
    parrot = Parrot("Be brief.")
    say(recorder, parrot, "one")
    recorder.new()
    say(recorder, parrot, "two")
    assert [m.content.strip() for m in parrot.messages] == ["Be brief.", "two", "two"]
    assert len(kept(recorder).list()) == 2


def test_without_a_directory_all_of_it_works_and_nothing_is_kept(tmp_path: Path) -> None:
    recorder = Recorder(None, pytest.fail)
    say(recorder, Parrot(), "one")
    recorder.rewind()
    say(recorder, Parrot(), "two")
    assert recorder.walk(-1)
    assert recorder.saved
    recorder.flush()
    recorder.close()
    assert not any(tmp_path.iterdir())


# Faults.

TALKER = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from speakers import Parrot
from edgespec.conversations.recorder import Recorder

recorder = Recorder(Path(sys.argv[1]))
text = " ".join(map(str, range(10**6)))
recorder.begin(text)
for n, event in enumerate(recorder.answer(Parrot(), text)):
    print(n, flush=True)
    if n % 7 == 6:
        recorder.flush()
        print("kept", n, flush=True)
"""


@pytest.mark.parametrize("rounds", [1, 20, 75])
def test_kill_9_loses_at_most_what_was_not_written_yet(directory: Path, rounds: int) -> None:
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", TALKER, str(directory), here, str(Path(here).parents[1])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        sure, told = 0, 0
        for line in child.stdout:
            *what, number = line.split()
            told = int(number)
            sure = told if what else sure
            if sure >= rounds:
                break
        os.kill(child.pid, signal.SIGKILL)
        for line in child.stdout:
            told = int(line.split()[-1])
    store = ConversationStore(directory, pytest.fail)
    assert store._read("PRAGMA integrity_check") == [("ok",)]
    (found,) = store.list()
    question, answer = store.load(found.id).path()
    assert question.text.startswith("0 1 2 3")
    assert answer.finish is None
    words = answer.text.split()
    assert words == [str(n) for n in range(len(words))]
    assert sure <= len(words) <= told + 1
    assert store.search(f"{sure - 1}")


def test_a_full_disk_is_said_once_and_what_was_missed_is_kept_later(directory: Path) -> None:
    heard: list[str] = []
    recorder, parrot = Recorder(directory, heard.append), Parrot()
    say(recorder, parrot, "one")
    recorder.flush()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # Python ignores SIGXFSZ, so that writing fails
    try:
        say(recorder, parrot, "two", "three")
        recorder.flush()
        assert not recorder.saved
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(heard) == 1
    assert UNSAVED in heard[0]
    assert str(directory / FILE) in heard[0]
    say(recorder, parrot, "four")
    (found,) = kept(recorder).list()
    assert recorder.saved
    assert texts(kept(recorder).load(found.id))[::2] == ["one", "two", "three", "four"]


def leave(_path: Path) -> None:
    """No harm is done."""


def replace_by_garbage(path: Path) -> None:
    path.write_bytes(os.urandom(50_000))


@pytest.mark.parametrize("harm", [leave, replace_by_garbage])
def test_a_locked_file_is_said_and_what_was_missed_is_kept_later(
    directory: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.05)
    heard: list[str] = []
    recorder, parrot = Recorder(directory, heard.append), Parrot()
    say(recorder, parrot, "one")
    recorder.flush()
    other = sqlite3.connect(directory / FILE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    say(recorder, parrot, "two")
    recorder.flush()
    other.execute("ROLLBACK")
    other.close()
    assert [h.split(" (")[0] for h in heard] == [
        "this conversation is not saved: another program holds the file locked"
    ]
    harm(directory / FILE)
    say(recorder, parrot, "three")
    (found,) = kept(recorder).list()
    assert texts(kept(recorder).load(found.id))[::2] == ["one", "two", "three"]
    assert len(heard) == 1 + len(list(directory.glob("damaged-*.sqlite3")))


def make_later(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.mark.parametrize(("harm", "says"), [(make_later, "later version"), (Path.unlink, "")])
def test_the_chat_outlives_what_happens_to_the_file(directory: Path, harm: Callable[[Path], None], says: str) -> None:
    Recorder(directory).close()
    say(first := Recorder(directory), Parrot(), "one")
    first.close()
    harm(directory / FILE)
    heard: list[str] = []
    recorder = Recorder(directory, heard.append)
    answer = say(recorder, Parrot(), "one two", "three")
    recorder.close()
    assert answer.text == "three "
    assert recorder.saved is not bool(says)
    assert len(heard) == bool(says)
    assert all(says in sentence for sentence in heard)


# With a model.


def test_a_resumed_conversation_goes_on_as_if_it_had_never_ended(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESPEC_HOME", str(fill_home(tmp_path)))

    def opened() -> Chat:
        return open_chat("tiny", settings=Settings(max_tokens=12, system="Be brief."), draft="none")

    def ask(recorder: Recorder, chat: Chat, text: str) -> str:
        recorder.begin(text)
        *_, answer = recorder.answer(chat, text)
        return answer.text  # pyright: ignore

    chat, recorder = opened(), Recorder(directory, pytest.fail)
    for text in ("hello there", "the cat"):
        ask(recorder, chat, text)
    messages = list(chat.messages)
    before = resumed(recorder)
    third = ask(recorder, chat, "and the dog")
    again, after = opened(), before
    assert ask(after, again, "and the dog") == third
    assert again.messages == [*messages, *chat.messages[-2:]] == chat.messages
