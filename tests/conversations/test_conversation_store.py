"""The file: private, whole, searchable, and never a loss, whatever is done to it."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.conversations import FILE, database
from edgespec.conversations.conversation import Conversation, Entry
from edgespec.conversations.database import reason
from edgespec.conversations.store import ConversationStore
from edgespec.errors import ChecksumError, UsageError

UMLAUT = "Grüße aus München, 天気がいい"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data" / "conversations"


@pytest.fixture
def store(directory: Path) -> ConversationStore:
    return ConversationStore(directory, pytest.fail)


def talk(*texts: str, title: str = "A talk", start: int = 1, **of_answers: object) -> Conversation:
    """Questions and answers by turns."""
    conversation = Conversation(title=title)
    for i, text in enumerate(texts):
        role = "assistant" if i % 2 else "user"
        answer = {"finish": "stop", "model": "parrot", "ids": (7, -1, 2**31 - 1), **of_answers} if i % 2 else {}
        conversation.add(Entry(start + i, start + i - 1 if i else None, role, text, 5.5, **answer))  # pyright: ignore
        conversation.leaf = start + i
    return conversation


def keep(store: ConversationStore, conversation: Conversation) -> Conversation:
    store.keep(conversation, conversation.entries.values())
    return conversation


def test_everything_comes_back(store: ConversationStore) -> None:
    figures = {"ttft_ms": 1.5, "stats": {"arms": {"ngram": 3}}}
    kept = keep(
        store, talk("Why?", "So.", figures=figures, cut=True, tokenizer="ab", draft="ngram", system="Be brief.")
    )
    assert store.load(kept.id) == kept


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> ConversationStore:
    return ConversationStore(tmp_path_factory.mktemp("lasting"))


@given(text=st.text(st.characters(codec=None, exclude_categories=()), max_size=40), title=st.text(max_size=10))
def test_any_text_round_trips(lasting: ConversationStore, text: str, title: str) -> None:
    kept = keep(lasting, talk(text, text, title=title, system=text))
    assert lasting.load(kept.id) == kept
    for term in text.split():
        assert [f.id for f in lasting.search(term)] == [kept.id]
    lasting.delete([kept.id])


def test_only_the_user_can_read_it(store: ConversationStore, directory: Path) -> None:
    keep(store, talk("secret", "kept"))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert len(modes) == 3  # the -wal holds text too
    assert set(modes.values()) == {0o600}


def test_a_finished_message_is_never_written_over(store: ConversationStore) -> None:
    kept = keep(store, talk("Why?", "So."))
    store.keep(kept, [Entry(1, None, "user", "forged", 0.0), Entry(2, 1, "assistant", "forged", 0.0)])
    assert store.load(kept.id).entries == kept.entries


def test_an_answer_is_written_as_it_grows(store: ConversationStore) -> None:
    kept = keep(store, talk("Why?"))
    for n in range(1, 4):
        kept.add(Entry(2, 1, "assistant", "word " * n, 0.0, ids=(1,) * n))
        store.keep(kept, [kept.entries[2]])
        assert store.load(kept.id).entries[2].text == "word " * n
        assert [f.excerpt for f in store.search("word")] == [("word " * n).strip()]


def test_the_latest_comes_first(store: ConversationStore) -> None:
    first = keep(store, talk("one", "1", title="first"))
    second = keep(store, talk("two", "2", title="second", start=11))
    assert [(f.title, f.messages, f.model) for f in store.list()] == [("second", 2, "parrot"), ("first", 2, "parrot")]
    store.keep(first, [])
    assert [f.id for f in store.list()] == [first.id, second.id]


@pytest.mark.parametrize("searchable", [True, False], ids=["indexed", "SQLite without full-text search"])
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("münchen", ["greetings"]),
        ("ünch", ["greetings"]),
        ("天気", ["greetings"]),
        ("BLUE sky", ["sky"]),
        ("blue grüße", []),
        ("is", ["sky"]),
        ("a", ["sky", "greetings"]),
        ("greet", ["greetings"]),
        ('"sky', ["sky"]),
        ("sky*", []),
        ("NEAR(sky blue)", []),
        ("text:sky", []),
        ("%", []),
        ("_", []),
        ("  ", ["sky", "greetings"]),
    ],
)
def test_search(
    directory: Path, monkeypatch: pytest.MonkeyPatch, searchable: bool, query: str, found: list[str]
) -> None:
    if not searchable:
        monkeypatch.setattr(ConversationStore, "_prepare_search", lambda self: False)
    store = ConversationStore(directory)
    keep(store, talk(UMLAUT, "Danke!", title="greetings"))
    keep(store, talk('Why is the "sky" blue?', "Rayleigh scattering.", title="sky", start=11))
    assert [f.title for f in store.search(query)] == found


def test_what_was_kept_without_an_index_is_found_with_one(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setattr(ConversationStore, "_prepare_search", lambda self: False)
        keep(ConversationStore(directory), talk("needle", "thread"))
    assert ConversationStore(directory).search("needle")


def test_deleting_can_be_undone_until_it_is_final(store: ConversationStore) -> None:
    kept = keep(store, talk("Why?", "So."))
    store.trash(kept.id)
    assert store.list() == store.search("why") == []
    with pytest.raises(UsageError, match="no conversation"):
        store.find(kept.id)
    assert store.trashed(before=1e12) == [kept.id]
    assert store.trashed(before=0) == []
    store.restore(kept.id)
    assert [f.id for f in store.list()] == [kept.id]
    store.delete([kept.id])
    with pytest.raises(UsageError, match="deleted"):
        store.load(kept.id)


def test_the_text_of_what_was_deleted_is_nowhere_in_the_files(store: ConversationStore, directory: Path) -> None:
    for n in range(30):
        keep(store, talk(f"harmless {n}", "yes", start=100 * n + 1))
    kept = keep(store, talk("the xylophone password", "noted: xylophone " * 500, title="xylophone", start=9001))
    store.delete([kept.id])
    for path in directory.iterdir():
        assert b"xylophone" not in path.read_bytes()
        assert b"xyl" not in path.read_bytes()  # the index holds groups of three
    assert len(store.search("harmless")) == 30


def test_ids_are_found_by_their_beginning(store: ConversationStore) -> None:
    for id_ in ("abc1", "abd2"):
        keep(store, Conversation(id=id_, title="t"))
    assert store.find("abc") == store.find("abc1") == "abc1"
    for prefix, says in [("ab", "2 conversations begin with ab"), ("x", "no conversation x"), ("", "no conversation")]:
        with pytest.raises(UsageError, match=says):
            store.find(prefix)


# The file.

VERSION_1 = """
CREATE TABLE conversation (id TEXT PRIMARY KEY, title TEXT NOT NULL, created REAL NOT NULL, updated REAL NOT NULL,
    deleted REAL, leaf INTEGER) WITHOUT ROWID;
CREATE TABLE message (id INTEGER PRIMARY KEY, conversation TEXT NOT NULL REFERENCES conversation(id) ON DELETE CASCADE,
    parent INTEGER, role TEXT NOT NULL, text TEXT NOT NULL, time REAL NOT NULL, ids BLOB NOT NULL, cut INTEGER NOT NULL,
    tokenizer TEXT, model TEXT, draft TEXT, system TEXT, finish TEXT, figures TEXT, indexed INTEGER NOT NULL DEFAULT 0);
CREATE INDEX message_of ON message(conversation);
CREATE INDEX message_unindexed ON message(id) WHERE indexed = 0;
INSERT INTO conversation VALUES ('0123456789abcdef', 'Old', 1.0, 2.0, NULL, 2);
INSERT INTO message VALUES (1, '0123456789abcdef', NULL, 'user', 'Why?', 1.0, x'', 0, NULL, NULL, NULL, NULL, NULL,
    NULL, 0);
INSERT INTO message VALUES (2, '0123456789abcdef', 1, 'assistant', 'Because.', 1.5, x'05000000', 0, 'ab', 'old-model',
    NULL, NULL, 'stop', '{"ttft_ms": 3.5}', 0);
PRAGMA user_version = 1;
"""


def write_version_1(directory: Path) -> None:
    directory.mkdir(parents=True)
    with sqlite3.connect(directory / FILE) as connection:
        connection.executescript(VERSION_1)
    connection.close()


def check_version_1(store: ConversationStore) -> None:
    old = store.load("0123456789abcdef")
    assert [e.text for e in old.path()] == ["Why?", "Because."]
    assert old.entries[2].ids == (5,)
    assert old.entries[2].figures == {"ttft_ms": 3.5}
    assert [f.model for f in store.search("because")] == ["old-model"]


def test_a_file_of_version_1_opens(directory: Path) -> None:
    write_version_1(directory)
    check_version_1(ConversationStore(directory, pytest.fail))
    check_version_1(ConversationStore(directory, pytest.fail))


def test_an_older_file_is_brought_forward_or_left_as_it_was(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_version_1(directory)
    step = ("ALTER TABLE conversation ADD COLUMN colour TEXT", "UPDATE conversation SET colour = 'blue'")
    with monkeypatch.context() as broken:
        broken.setattr(database, "MIGRATIONS", [*database.MIGRATIONS, (*step, "SELECT nonsense")])
        with pytest.raises(sqlite3.OperationalError, match="nonsense"):
            ConversationStore(directory)
    monkeypatch.setattr(database, "MIGRATIONS", [*database.MIGRATIONS, step])
    store = ConversationStore(directory, pytest.fail)
    check_version_1(store)
    assert store._read("SELECT colour FROM conversation") == [("blue",)]
    assert store._read("PRAGMA user_version") == [(len(database.MIGRATIONS),)]


def test_a_later_version_is_refused_and_left_alone(directory: Path) -> None:
    write_version_1(directory)
    with sqlite3.connect(directory / FILE) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = (directory / FILE).read_bytes()
    with pytest.raises(UsageError, match=r"later version of edgespec \(format 99, this one knows 1\).*left alone"):
        ConversationStore(directory, pytest.fail)
    assert [p.name for p in directory.iterdir()] == [FILE]
    assert (directory / FILE).read_bytes() == before


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    match how:
        case "garbage":
            data[:] = os.urandom(9000)
        case "truncated":
            del data[len(data) // 2 :]
        case _:
            data[4096:8192] = bytes(4096)
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["garbage", "truncated", "a page of zeros"])
def test_a_damaged_file_is_put_aside_and_said(directory: Path, how: str) -> None:
    store = ConversationStore(directory)
    for n in range(20):
        keep(store, talk("text " * 100, "more " * 100, start=100 * n + 1))
    store.close()
    damage(directory / FILE, how)
    found = (directory / FILE).read_bytes()
    heard: list[str] = []
    store = ConversationStore(directory, heard.append)
    assert store.list() == []
    keep(store, talk("new", "beginning"))
    (aside,) = directory.glob("damaged-*.sqlite3")
    assert aside.read_bytes() == found
    assert len(heard) == 1
    assert str(aside) in heard[0]


@pytest.mark.parametrize("kind", ["directory", "link", "pipe"])
def test_what_is_no_plain_file_is_left_alone(directory: Path, tmp_path: Path, kind: str) -> None:
    directory.mkdir(parents=True)
    path, canary = directory / FILE, tmp_path / "canary"
    canary.write_bytes(b"canary.")
    {"directory": path.mkdir, "link": lambda: path.symlink_to(canary), "pipe": lambda: os.mkfifo(path)}[kind]()
    with pytest.raises((OSError, ChecksumError)):
        ConversationStore(directory, pytest.fail)
    assert canary.read_bytes() == b"canary."
    assert [p.name for p in directory.iterdir()] == [FILE]


def test_reasons_are_words(directory: Path) -> None:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    assert reason(error, directory).startswith("the disk is full (")
    assert reason(OSError(30, "Read-only file system"), directory).startswith("Read-only file system (")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    assert "database or disk is full" in reason(error, directory)


WRITER = """
import sys
from pathlib import Path
from edgespec.conversations.conversation import Conversation, Entry
from edgespec.conversations.store import ConversationStore
start = int(sys.argv[2])
for n in range(start, start + 40):
    store = ConversationStore(Path(sys.argv[1]), sys.exit)
    mine = Conversation(title=str(n), leaf=n)
    mine.add(Entry(n, None, "user", "text " * 50, 0.0))
    store.keep(mine, mine.entries.values())
    store.close()
"""


def test_two_programs_at_once_lose_nothing(directory: Path) -> None:
    running = [subprocess.Popen([sys.executable, "-c", WRITER, str(directory), str(n)]) for n in (1000, 2000, 3000)]
    assert [p.wait(60) for p in running] == [0, 0, 0]
    store = ConversationStore(directory, pytest.fail)
    assert len(store.list()) == len(store.search("text")) == 120
    assert store._read("PRAGMA integrity_check") == [("ok",)]


def test_the_last_questions_of_all_conversations(store: ConversationStore) -> None:
    keep(store, talk("one", "so", "two", "so"))
    gone = keep(store, talk("three", "so", start=10))
    keep(store, talk(UMLAUT, "so", start=20))
    store.trash(gone.id)
    assert store.questions(10) == ["one", "two", UMLAUT]
    assert store.questions(2) == ["two", UMLAUT]
