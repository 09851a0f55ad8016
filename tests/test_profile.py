"""What is kept of a machine's measurements: believed when whole, measured again when not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import COSTS
from homes import fill_home

from edgespec.bundle import Store
from edgespec.chat.session import Chat, Settings
from edgespec.engine import open_chat
from edgespec.errors import UsageError
from edgespec.profile import Profiles, Tuned, profile_key, tuned_key

TUNED = Tuned(threads=1, draft="skip", draft_max=3)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def store(home: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The models of `home`, with nothing measured yet."""
    monkeypatch.setenv("EDGESPEC_HOME", str(home))
    for path in (home / "models" / ".profiles").glob("*"):
        path.unlink()
    return Store(home / "models")


def open_tiny(draft: str | None = "ngram", draft_max: int | None = None) -> tuple[Chat, list[str]]:
    """The chat, and the stages that opening it went through."""
    stages: list[str] = []
    chat = open_chat(
        "tiny",
        draft=draft,
        settings=Settings(max_tokens=8, draft_max=draft_max),
        progress=lambda stage, _: stages.append(stage),
    )
    return chat, stages


def kept(store: Store) -> list[Path]:
    return sorted((store.root / ".profiles").iterdir())


def test_a_model_is_measured_once_for_each_set_of_drafters(store: Store) -> None:
    assert "Measuring the speed" in open_tiny()[1]
    assert "Measuring the speed" not in open_tiny()[1]
    assert "Measuring the speed" in open_tiny("skip")[1]
    assert "Measuring the speed" not in open_tiny("none")[1]
    assert "Measuring the speed" not in open_tiny()[1]
    assert "Measuring the speed" in open_tiny(draft_max=12)[1]


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"\xff\xfe", b"null", b"[1]", b"[" * 100_000, b"7" * 2_000_000],
    ids=["empty", "cut", "bytes", "null", "list", "deep", "huge"],
)
def test_a_damaged_file_is_measured_again(store: Store, damage: bytes) -> None:
    open_tiny()
    (path,) = kept(store)
    whole = path.read_bytes()
    path.write_bytes(damage)
    assert "Measuring the speed" in open_tiny()[1]
    assert json.loads(path.read_bytes()).keys() == json.loads(whole).keys()


def test_costs_that_lack_a_drafter_are_measured_again(store: Store) -> None:
    open_tiny()
    (path,) = kept(store)
    entry = json.loads(path.read_bytes())
    entry["drafts"] = {"another": entry["drafts"]["ngram"]}
    path.write_text(json.dumps(entry))
    assert "Measuring the speed" in open_tiny()[1]
    assert list(json.loads(path.read_bytes())["drafts"]) == ["ngram"]


def test_a_directory_that_cannot_be_written_only_costs_time(store: Store) -> None:
    directory = store.root / ".profiles"
    if directory.exists():
        directory.rmdir()
    directory.write_text("a file")
    try:
        for _ in range(2):
            chat, stages = open_tiny()
            assert "Measuring the speed" in stages
            assert list(chat.send("hello"))
        key = tuned_key(store.open("tiny"), "auto")
        assert Profiles(store).tuned(key) is None
        with pytest.raises(UsageError, match=r"cannot be written .*, so nothing was changed"):
            Profiles(store).keep_tuned(key, TUNED)
    finally:
        directory.unlink()


def test_two_programs_that_write_leave_one_of_the_two(store: Store) -> None:
    program = (
        "import sys, dataclasses; from pathlib import Path; from fakes import COSTS\n"
        "from edgespec.bundle import Store; from edgespec.profile import Profiles\n"
        "profiles, lone = Profiles(Store(Path(sys.argv[1]))), float(sys.argv[2])\n"
        "costs = dataclasses.replace(COSTS, lone=(lone, lone))\n"
        "for _ in range(300):\n"
        "    profiles.keep_costs('shared', costs)\n"
        "    assert profiles.costs('shared') is not None\n"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    program = f"import sys; sys.path[:0] = {paths!r}\n{program}"
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(store.root), lone], stderr=subprocess.PIPE)
        for lone in ("2.0", "3.0")
    ]
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, b"")
    found = Profiles(store).costs("shared")
    assert found is not None
    assert found.lone in ((2.0, 2.0), (3.0, 3.0))
    assert [path.name for path in kept(store)] == ["shared.json"]


def test_the_key_names_all_that_the_costs_depend_on(store: Store) -> None:
    tiny, skip = store.open("tiny"), store.open("skip")
    keys = [
        profile_key(tiny, [], device="cpu", threads=2, k_max=8),
        profile_key(tiny, [skip], device="cpu", threads=2, k_max=8),
        profile_key(skip, [], device="cpu", threads=2, k_max=8),
        profile_key(tiny, [], device="cuda", threads=2, k_max=8),
        profile_key(tiny, [], device="cpu", threads=1, k_max=8),
        profile_key(tiny, [], device="cpu", threads=2, k_max=9),
        tuned_key(tiny, "cpu"),
        tuned_key(skip, "cpu"),
    ]
    assert len(set(keys)) == len(keys)
    assert profile_key(tiny, [], device="cpu", threads=2, k_max=8) == keys[0]


def test_tuned_settings_are_those_kept_last_and_can_be_undone(store: Store) -> None:
    profiles, key = Profiles(store), tuned_key(store.open("tiny"), "auto")
    other = Tuned(threads=2, draft="none", draft_max=8)
    assert profiles.tuned(key) is None
    assert not profiles.undo_tuned(key)
    profiles.keep_tuned(key, TUNED)
    profiles.keep_tuned(key, other)
    assert profiles.tuned(key) == other
    assert profiles.undo_tuned(key)
    assert profiles.tuned(key) == TUNED
    assert profiles.undo_tuned(key)
    assert profiles.tuned(key) is None
    assert not profiles.undo_tuned(key)


@pytest.mark.parametrize(
    "entry",
    [
        {"threads": 0, "draft": "none", "draft_max": 8},
        {"threads": 2, "draft": "none", "draft_max": 65},
        {"threads": "many", "draft": "none", "draft_max": 8},
        {"threads": 2, "draft_max": 8},
        7,
    ],
)
def test_damaged_tuned_settings_are_none(store: Store, entry: object) -> None:
    profiles, key = Profiles(store), tuned_key(store.open("tiny"), "auto")
    profiles.keep_tuned(key, TUNED)
    (path,) = kept(store)
    path.write_text(json.dumps([entry]))
    assert profiles.tuned(key) is None
    assert open_tiny(None)[0].draft == "ngram"


def test_a_chat_is_opened_as_tuned_unless_a_flag_says_otherwise(store: Store) -> None:
    Profiles(store).keep_tuned(tuned_key(store.open("tiny"), "auto"), TUNED)
    for draft, draft_max, shown, longest in (
        (None, None, "skip", 3),
        (None, 5, "skip", 5),
        ("skip", None, "skip", 3),
        ("ngram", None, "ngram", 8),
        ("none", None, None, 8),
    ):
        chat, _ = open_tiny(draft, draft_max)
        assert (chat.draft, chat.settings.longest_draft) == (shown, longest)


def test_a_tuned_draft_that_is_gone_is_not_asked_for(store: Store) -> None:
    Profiles(store).keep_tuned(tuned_key(store.open("tiny"), "auto"), Tuned(1, "removed", 3))
    chat, _ = open_tiny(None)
    assert (chat.draft, chat.settings.longest_draft) == ("ngram", 8)


def test_costs_survive_being_kept(store: Store) -> None:
    Profiles(store).keep_costs("key", COSTS)
    assert Profiles(store).costs("key") == COSTS
