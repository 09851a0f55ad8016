"""The directory that bundles live in: found by name, made in a staging directory, renamed into place."""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgespec.bundle import verified
from edgespec.bundle.bundle import Bundle
from edgespec.bundle.catalog import load_catalog
from edgespec.bundle.files import Progress, flush_to_disk, no_progress
from edgespec.bundle.hub import HubReference
from edgespec.bundle.manifest import FILE_NAME, Manifest, check_name
from edgespec.errors import EdgespecError, ModelError, UsageError
from edgespec.places import models_directory

_STAGING = ".staging-"
_RESUMABLE = ".resume-"
_KEPT_SECONDS = 14 * 86400
"""Work that nobody went on with for that long is given up."""


class Store:
    """Bundles by name, under one root directory, which is created when the first one is made."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._memory = root / ".verified.json"

    def names(self) -> tuple[str, ...]:
        """The names of all bundles, sorted, damaged ones included: every directory with a manifest."""
        try:
            entries = list(os.scandir(self.root))
        except OSError:
            return ()
        found = sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".")
            and entry.is_dir(follow_symlinks=False)
            and os.path.lexists(Path(entry.path) / FILE_NAME)
        )
        return tuple(found)

    def list(self) -> tuple[Bundle, ...]:
        """The bundles whose manifest, file kinds and sizes are as they should be, by name."""
        found: list[Bundle] = []
        for name in self.names():
            with contextlib.suppress(EdgespecError):
                found.append(self.open(name))
        return tuple(found)

    def require(self, name: str) -> None:
        """Raise ModelError, with the closest name, unless there is a bundle of that name, whole or damaged."""
        if check_name(name) in self.names():
            return
        known = load_catalog().pairs
        if name in known:
            raise ModelError(f"the model {name} is not on this machine; `edgespec pull {name}` fetches it")
        close = difflib.get_close_matches(name, {*self.names(), *known}, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ModelError(
            f"there is no model {name}; {hint}"
            "`edgespec list` shows what is here, `edgespec pull` takes a name of the catalog or a .gguf file"
        )

    def open(self, reference: str) -> Bundle:
        """The bundle of that name, or in the directory of that path, by its manifest and file sizes; nothing is hashed.

        Raises: ModelError if there is none or its manifest is unusable, ChecksumError if a file is not the recorded
        one, UsageError if it is neither a path nor a possible name.
        """
        if os.sep in reference:
            if HubReference.parse(reference) is not None and not Path(reference).exists():
                raise ModelError(
                    f"there is no folder {reference}; if you mean the model on the Hub, `edgespec pull {reference}` "
                    "fetches it and says what it is called here"
                )
            return Bundle.open(Path(reference).expanduser().absolute())
        self.require(reference)
        directory = self.root / reference
        bundle = Bundle.open(directory)
        if bundle.name != reference:
            raise ModelError(f"{directory} holds the model {bundle.name}; rename it back to {bundle.name}")
        return bundle

    def get(self, reference: str, progress: Progress = no_progress) -> Bundle:
        """As `open`, and the files' hashes are known to be right: computed now, or earlier and not touched since."""
        bundle = self.open(reference)
        verified.ensure_verified(bundle, self._memory, progress)
        return bundle

    def verify(self, reference: str, progress: Progress = no_progress) -> Bundle:
        """As `open`, and every file is hashed again. Raises ChecksumError naming the file that differs."""
        bundle = self.open(reference)
        verified.verify(bundle, self._memory, progress)
        return bundle

    def remove(self, name: str) -> None:
        """Delete a bundle, whole or damaged. It is gone at once, even if deleting its files is stopped half-way.

        Raises: ModelError if there is none of that name, UsageError if it cannot be deleted.
        """
        self.require(name)
        try:
            trash = Path(tempfile.mkdtemp(prefix=_STAGING, dir=self.root))
            (self.root / name).rename(trash / name)
        except OSError as error:
            raise UsageError(f"{self.root / name} cannot be deleted: {error.strerror}") from error
        shutil.rmtree(trash, ignore_errors=True)

    @contextlib.contextmanager
    def staging(self, progress: Progress = no_progress, *, resume: str | None = None) -> Generator[Staging]:
        """A private place to make a bundle in, gone when the block ends. One process at a time has one: the others
        wait, and should then look whether the bundle that they want is there. What killed processes left is deleted.

        `resume` names the work, as a bundle is named: its place then stays, whatever ends the block, until a bundle
        was made of it, and the next block of that name finds there what this one left.

        Raises: UsageError if the store cannot be written to.
        """
        with contextlib.ExitStack() as stack:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context((self.root / ".lock").open("ab"))
                _lock(lock.fileno(), progress)
                # Whoever holds the lock is the only live owner, so these belong to nobody.
                for leftover in (*self.root.glob(f"{_STAGING}*"), *self._given_up()):
                    shutil.rmtree(leftover, ignore_errors=True)
                if resume is None:
                    stage = Path(tempfile.mkdtemp(prefix=_STAGING, dir=self.root))
                    stack.callback(shutil.rmtree, stage, ignore_errors=True)
                else:
                    stage = self.root / f"{_RESUMABLE}{check_name(resume)}"
                    stack.callback(_drop_if_committed, stage)
                files, scratch = stage / "files", stage / "scratch"
                files.mkdir(parents=True, exist_ok=True)
                os.utime(stage)
                scratch.mkdir(exist_ok=True)
            except OSError as error:
                raise UsageError(
                    f"{self.root} cannot be written to ({error.strerror}); set EDGESPEC_HOME to a directory of yours"
                ) from error
            yield Staging(self, files, scratch)

    def adopt(self, bundle: Bundle, progress: Progress = no_progress) -> Bundle:
        """A copy of a bundle of another store, unless there is one of that name, whole or damaged.

        Raises: ChecksumError if a file is not as its manifest says; UsageError, OSError.
        """
        if bundle.name in self.names():
            return self.open(bundle.name)
        with self.staging(progress) as staging:
            for name in bundle.manifest.files:
                shutil.copyfile(bundle.directory / name, staging.files / name)
            Bundle(staging.files, bundle.manifest).verify(progress)
            return staging.commit(bundle.manifest)

    def work_directory(self, name: str) -> Path:
        """Where `staging(resume=name)` keeps what is needed on the way."""
        return self.root / f"{_RESUMABLE}{name}" / "scratch"

    def _given_up(self) -> list[Path]:
        """Resumable work that a bundle was made of, or that nobody went on with."""
        oldest = time.time() - _KEPT_SECONDS
        stages = self.root.glob(f"{_RESUMABLE}*")
        return [stage for stage in stages if not (stage / "files").is_dir() or stage.stat().st_mtime < oldest]

    def commit(self, staging: Staging, manifest: Manifest) -> Bundle:
        """Make a bundle of `staging.files`: flush them to the disk, write the manifest last, rename into place."""
        made = Bundle(staging.files, manifest)
        hashed = made.fingerprints()
        for name in manifest.files:
            flush_to_disk(staging.files / name)
        manifest.write(staging.files)
        flush_to_disk(staging.files / FILE_NAME)
        flush_to_disk(staging.files)
        target = self.root / check_name(manifest.name)
        # Killed behind the rename, this process would leave it lying until the next bundle is made.
        shutil.rmtree(staging.scratch)
        staging.scratch.mkdir()
        if os.path.lexists(target):
            target.rename(staging.scratch / "replaced")
        staging.files.rename(target)
        flush_to_disk(self.root)
        bundle = Bundle.open(target)
        verified.remember(bundle, self._memory, hashed)
        return bundle


@dataclass(frozen=True, slots=True)
class Staging:
    """`files` becomes the bundle at `commit`; `scratch`, on the same disk, is for what is needed on the way."""

    store: Store
    files: Path
    scratch: Path

    def once(self, stage: str, key: Sequence[str], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `work` returns, a JSON object; work that finished in an earlier block with the same `key` is not done
        again. When it is done, all that lies here is flushed to the disk before the result is noted."""
        note = self.scratch / f"{stage}.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(note.read_bytes())
            if found["key"] == list(key):
                return found["result"]
        note.unlink(missing_ok=True)
        result = work()
        for path in self.files.parent.rglob("*"):
            flush_to_disk(path)
        written = note.with_suffix(".new")
        written.write_text(json.dumps({"key": list(key), "result": result}), encoding="utf-8")
        flush_to_disk(written)
        written.replace(note)
        return result

    def commit(self, manifest: Manifest) -> Bundle:
        """Make a bundle of `files`, whose records the manifest has. A bundle of that name is replaced.

        Raises: ChecksumError if a file is not of its recorded kind and size, UsageError if the name cannot be one.
        """
        return self.store.commit(self, manifest)


def default_store() -> Store:
    """The store that the command line and the library use; see `places.models_directory`."""
    return Store(models_directory())


def _drop_if_committed(stage: Path) -> None:
    if not (stage / "files").is_dir():
        shutil.rmtree(stage, ignore_errors=True)


def _lock(descriptor: int, progress: Progress) -> None:
    """Take the lock; the kernel lets go of it when the process ends, however it ends."""
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("Waiting for another edgespec", 0.0)
            time.sleep(0.1)
