"""Fetch the files of a Hub model, going on where an earlier run stopped, and check every one."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from edgespec.bundle.files import Progress, flush_to_disk, open_plain
from edgespec.bundle.hub import HubFile, HubModel, endpoint, hub_errors
from edgespec.errors import ChecksumError, DownloadError

CHUNK = 1 << 20
"""Bytes. huggingface_hub hands on ten times as much at once: too seldom to show progress, or to stop soon."""


def format_bytes(count: int) -> str:
    """A size for people: 93.0 MB, 8.1 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def missing_bytes(model: HubModel, directory: Path) -> int:
    """How much of `model` is still to be fetched into `directory`."""
    have = sum(_size(directory / file.name) or _size(_part(directory, file)) for file in model.files)
    return max(model.size - have, 0)


def fetch_files(model: HubModel, directory: Path, progress: Progress) -> None:
    """Make `directory` hold the files of `model`, plain and checked, and nothing else.

    What an earlier call left there is used again, whatever commit it was for: every file is known by its digest. A
    file in huggingface_hub's own cache (HF_HOME) is copied. What `progress` raises stops it.

    Raises: DownloadError if the Hub cannot be reached or refuses, ChecksumError if what it sent is not what it listed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    known = {path for file in model.files for path in (directory / file.name, _part(directory, file))}
    for leftover in set(directory.iterdir()) - known:
        leftover.unlink()
    stage = f"Fetching {model.repository}, {format_bytes(model.size)}"
    total, done = max(model.size, 1), 0
    for file in model.files:
        start = done
        _fetch(model, file, directory, lambda now, start=start: progress(stage, (start + now) / total))
        done += file.size
    progress(stage, 1.0)


def _fetch(model: HubModel, file: HubFile, directory: Path, report: Callable[[int], None]) -> None:
    path, part = directory / file.name, _part(directory, file)
    report(0)
    if path.is_file():
        if _matches(path, file):
            return
        path.unlink()
    resumed = _size(part)
    if resumed == 0:
        _copy_from_cache(model, file, part)
    _download(model, file, part, report)
    if resumed and not _matches(part, file):
        # What an earlier run left may be what is wrong.
        part.unlink()
        _download(model, file, part, report)
    if not _matches(part, file):
        part.unlink()
        raise ChecksumError(
            f"{file.path} of {model.repository} is not the file that the Hub lists: its hash differs; try again, "
            "and if it stays so, ask whoever runs what HF_ENDPOINT or your proxy points to"
        )
    flush_to_disk(part)
    part.rename(path)


def _download(model: HubModel, file: HubFile, part: Path, report: Callable[[int], None]) -> None:
    """Append to `part` what it lacks, with a new connection for as long as each brings something."""
    while True:
        before = _size(part)
        try:
            return _append(model, file, part, report)
        except DownloadError:
            if _size(part) <= before:
                raise


def _append(model: HubModel, file: HubFile, part: Path, report: Callable[[int], None]) -> None:
    with hub_errors(model.repository), part.open("ab+") as stream:
        from huggingface_hub import constants, file_download, hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # pyright: ignore[reportPrivateImportUsage]

        constants.DOWNLOAD_CHUNK_SIZE = CHUNK
        if (have := stream.seek(0, io.SEEK_END)) >= file.size:
            return
        # hf_hub_download throws a broken-off download away; this is what it fetches with.
        file_download.http_get(
            hf_hub_url(model.repository, file.path, revision=model.revision, endpoint=endpoint()),
            cast(BinaryIO, _Growing(stream, file, report)),
            resume_size=have,
            headers=build_hf_headers(library_name="edgespec"),
        )


class _Growing:
    """A binary file that tells how long it has become after each write, and grows no longer than the Hub said."""

    def __init__(self, stream: BinaryIO, file: HubFile, report: Callable[[int], None]) -> None:
        self._stream, self._file, self._report = stream, file, report
        self.seek, self.tell, self.truncate = stream.seek, stream.tell, stream.truncate

    def write(self, data: bytes) -> int:
        count = self._stream.write(data[: self._file.size + 1 - self.tell()])
        self._stream.flush()
        if self.tell() > self._file.size:
            raise ChecksumError(f"{self._file.path} is longer than the Hub lists it; try again")
        self._report(self.tell())
        return count


def _copy_from_cache(model: HubModel, file: HubFile, part: Path) -> None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model.repository, file.path, revision=model.revision)
    if isinstance(found, str):
        shutil.copyfile(found, part)
        if not _matches(part, file):
            part.unlink()


def _matches(path: Path, file: HubFile) -> bool:
    if _size(path) != file.size:
        return False
    sha1 = len(file.digest) == 40
    digest = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False) if sha1 else hashlib.sha256()
    with open_plain(path) as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == file.digest


def _part(directory: Path, file: HubFile) -> Path:
    return directory / f".{file.digest}.part"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
