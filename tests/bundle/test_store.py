"""Bundles in a store: whole or not there, found by name, their files the recorded ones."""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sample_bundles import FILES, describe

from edgespec.bundle import Bundle, Store
from edgespec.errors import ChecksumError, EdgespecError, ModelError, UsageError
from edgespec.places import models_directory, state_directory

Make = Callable[..., Bundle]


def test_made_found_listed_and_removed(store: Store, make_bundle: Make) -> None:
    made = make_bundle("b")
    make_bundle("a")
    assert [bundle.name for bundle in store.list()] == ["a", "b"]
    assert store.get("b") == made
    assert made.graph.read_bytes() == FILES["model.onnx"]
    assert made.tokenizer.name == "tokenizer.json"
    assert made.chat_template is not None
    store.remove("b")
    assert store.names() == ("a",)
    assert not made.directory.exists()


def test_a_model_without_a_chat_template(make_bundle: Make) -> None:
    files = {name: content for name, content in FILES.items() if name != "chat_template.jinja"}
    assert make_bundle(files=files).chat_template is None


def test_a_path_opens_in_place(store: Store, make_bundle: Make, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    make_bundle().directory.rename(elsewhere)
    assert store.get(str(elsewhere)).directory == elsewhere
    with pytest.raises(ModelError, match="holds no model"):
        store.get(str(tmp_path / "nowhere"))


def test_an_unknown_name_is_answered_with_the_closest(store: Store, make_bundle: Make) -> None:
    make_bundle("gemma3-270m")
    with pytest.raises(ModelError, match=r"did you mean gemma3-270m\?.*edgespec list.*edgespec pull"):
        store.get("gema3-270m")
    with pytest.raises(ModelError, match="`edgespec pull smollm2-135m` fetches it"):
        store.get("smollm2-135m")


@pytest.mark.parametrize("name", ["", ".", "..", ".lock", "-x", "a b", "a\n", "é", "x" * 101])
def test_names_that_cannot_be(store: Store, make_bundle: Make, name: str) -> None:
    for use in (store.get, store.remove, store.verify, make_bundle):
        with pytest.raises(UsageError, match="cannot be a model's name"):
            use(name)
    assert store.names() == ()


def test_a_path_cannot_be_removed(store: Store, make_bundle: Make) -> None:
    made = make_bundle()
    with pytest.raises(UsageError):
        store.remove(str(made.directory))
    assert made.directory.exists()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replace_by(kind: Callable[[Path], object]) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        path.rename(path.parent.parent / "moved-away")
        kind(path)

    return act


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "directory": replace_by(lambda path: path.mkdir()),
    "fifo": replace_by(lambda path: os.mkfifo(path)),
    "link": replace_by(lambda path: path.symlink_to(path.parent.parent / "moved-away")),
    "hard link": replace_by(lambda path: path.hardlink_to(path.parent.parent / "moved-away")),
    "broken link": replace_by(lambda path: path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("file", ["model.onnx.data", "tokenizer.json"])
def test_damage_that_shows_is_refused_and_names_file_and_remedy(
    store: Store, make_bundle: Make, kind: str, file: str
) -> None:
    bundle = make_bundle()
    DAMAGE[kind](bundle.directory / file)
    for use in (store.open, store.get, store.verify):
        with pytest.raises(
            ChecksumError, match=f"{file}.*edgespec pull /somewhere/tiny.gguf --weights int8 --name tiny"
        ):
            use("tiny")
    assert store.list() == ()
    assert store.names() == ("tiny",)


def test_a_flipped_bit_is_refused_before_anybody_parses_the_file(store: Store, make_bundle: Make) -> None:
    bundle = make_bundle()
    store.get("tiny")
    flip(bundle.directory / "model.onnx.data")
    for _ in range(2):
        with pytest.raises(ChecksumError, match=r"model\.onnx\.data of tiny is not the file that was recorded"):
            store.get("tiny")
    flip(bundle.directory / "model.onnx.data")
    assert store.get("tiny") == bundle


def test_a_flipped_bit_under_restored_times_is_still_refused(store: Store, make_bundle: Make) -> None:
    path = make_bundle().directory / "model.onnx.data"
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ChecksumError):
        store.get("tiny")


def test_files_are_hashed_once_not_at_every_start(store: Store, make_bundle: Make) -> None:
    stages: list[str] = []
    bundle = make_bundle()
    store.get("tiny", lambda stage, _: stages.append(stage))
    assert stages == []
    os.utime(bundle.graph)
    store.get("tiny", lambda stage, _: stages.append(stage))
    assert "Verifying the model" in stages
    stages.clear()
    store.get("tiny", lambda stage, _: stages.append(stage))
    assert stages == []
    store.verify("tiny", lambda stage, _: stages.append(stage))
    assert "Verifying the model" in stages


@pytest.mark.parametrize("content", [b"", b"[]", b'{"x": ', b"\xff", b"null"])
def test_a_broken_memory_costs_a_hash_and_nothing_else(store: Store, make_bundle: Make, content: bytes) -> None:
    bundle = make_bundle()
    (store.root / ".verified.json").write_bytes(content)
    assert store.get("tiny") == bundle
    flip(bundle.graph)
    with pytest.raises(ChecksumError):
        store.get("tiny")


def test_a_failed_verify_is_not_forgotten(store: Store, make_bundle: Make) -> None:
    """Decay that no time stamp shows: once verify has seen it, a start must not trust the old memory."""
    bundle = make_bundle()
    memory = store.root / ".verified.json"
    good = bundle.graph.read_bytes()
    flip(bundle.graph)
    # As if the bit had flipped on the disk: the memory holds the times of the file as it is now.
    known = json.loads(memory.read_text())
    found = bundle.graph.stat()
    known[str(bundle.directory)]["model.onnx"][:4] = [
        found.st_ino,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    ]
    memory.write_text(json.dumps(known))
    assert store.get("tiny").graph.read_bytes() != good
    with pytest.raises(ChecksumError):
        store.verify("tiny")
    with pytest.raises(ChecksumError):
        store.get("tiny")


def test_an_error_while_making_leaves_nothing(store: Store) -> None:
    def make() -> None:
        with store.staging() as staging:
            (staging.files / "model.onnx").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make()
    assert store.names() == ()
    assert [path.name for path in store.root.iterdir()] == [".lock"]


def test_a_bundle_without_what_the_manifest_lists_is_not_committed(store: Store) -> None:
    with store.staging() as staging:
        for name, content in FILES.items():
            (staging.files / name).write_bytes(content)
        manifest = describe("tiny", staging.files, tuple(FILES))
        staging.files.joinpath("model.onnx.data").unlink()
        with pytest.raises(ChecksumError):
            staging.commit(manifest)
    assert store.names() == ()


def test_a_replaced_bundle_is_the_new_one(store: Store, make_bundle: Make) -> None:
    make_bundle()
    new = make_bundle(files={**FILES, "model.onnx": b"another graph"})
    assert store.get("tiny") == new
    assert new.graph.read_bytes() == b"another graph"
    assert sorted(path.name for path in store.root.iterdir()) == [".lock", ".verified.json", "tiny"]


def test_leftovers_are_never_listed_and_are_swept(store: Store, make_bundle: Make) -> None:
    bundle = make_bundle()
    leftover = store.root / ".staging-dead" / "files"
    shutil.copytree(bundle.directory, leftover)
    (store.root / "no-manifest").mkdir()
    assert store.names() == ("tiny",)
    with store.staging():
        assert not leftover.parent.exists()
    assert (store.root / "no-manifest").exists()


def test_a_linked_directory_is_no_bundle(store: Store, make_bundle: Make, tmp_path: Path) -> None:
    bundle = make_bundle()
    bundle.directory.rename(tmp_path / "moved")
    bundle.directory.symlink_to(tmp_path / "moved")
    assert store.names() == ()
    with pytest.raises(ModelError):
        store.get("tiny")


def test_a_renamed_bundle_says_so(store: Store, make_bundle: Make) -> None:
    make_bundle().directory.rename(store.root / "other")
    with pytest.raises(ModelError, match="rename it back"):
        store.get("other")


def test_one_stages_at_a_time_and_a_waiting_one_can_be_stopped(store: Store) -> None:
    inside: list[str] = []

    def second() -> None:
        with store.staging():
            inside.append("second")

    def stop(stage: str, fraction: float) -> None:
        raise KeyboardInterrupt

    with store.staging() as staging:
        thread = threading.Thread(target=second)
        thread.start()
        with pytest.raises(KeyboardInterrupt), store.staging(stop):
            inside.append("never")
        time.sleep(0.3)
        assert inside == []
        assert staging.files.is_dir()
    thread.join()
    assert inside == ["second"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_that_cannot_be_written_to(store: Store, make_bundle: Make) -> None:
    make_bundle()
    store.root.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        for use in (lambda: store.remove("tiny"), make_bundle):
            with pytest.raises(UsageError):
                use()
        assert store.get("tiny").name == "tiny"
    finally:
        store.root.chmod(stat.S_IRWXU)


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file")
    assert store.names() == ()
    with pytest.raises(EdgespecError, match="EDGESPEC_HOME"), store.staging():
        pass


def test_home_moves_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESPEC_HOME", str(tmp_path))
    assert models_directory() == tmp_path / "models"
    assert state_directory() == tmp_path / "state"
    monkeypatch.delenv("EDGESPEC_HOME")
    assert models_directory().name == "models"
    assert tmp_path not in models_directory().parents


def test_work_can_be_gone_on_with_until_a_bundle_was_made_of_it(store: Store) -> None:
    calls: list[str] = []

    def work() -> dict[str, Any]:
        calls.append("work")
        return {"answer": 42}

    for _ in range(2):
        with store.staging(resume="big-model") as staging:
            assert staging.once("stage", ["a"], work) == {"answer": 42}
            (staging.scratch / "half").write_bytes(b"half")
    assert calls == ["work"]
    assert store.names() == ()
    with store.staging():
        assert (store.root / ".resume-big-model" / "scratch" / "half").exists()
    with store.staging(resume="big-model") as staging:
        assert staging.once("stage", ["another key"], work) == {"answer": 42}
        for file, content in FILES.items():
            (staging.files / file).write_bytes(content)
        staging.commit(describe("tiny", staging.files, tuple(FILES)))
    assert calls == ["work", "work"]
    assert sorted(path.name for path in store.root.iterdir()) == [".lock", ".verified.json", "tiny"]


def test_work_that_nobody_went_on_with_is_given_up(store: Store) -> None:
    with store.staging(resume="old"):
        pass
    os.utime(store.root / ".resume-old", (0, 0))
    with store.staging(resume="new"):
        assert not (store.root / ".resume-old").exists()


def test_a_model_of_the_hub_is_pulled_first(store: Store) -> None:
    with pytest.raises(ModelError, match="`edgespec pull Some/Tiny` fetches it"):
        store.open("Some/Tiny")
