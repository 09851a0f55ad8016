"""Remembers which files have been hashed, so that a start does not hash hundreds of megabytes again.

A file whose inode, size, mtime and ctime are what they were right before its hash was found good has not been written
to since. Decay on the disk under unchanged times is for `edgespec verify` to find.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgespec.bundle.bundle import Bundle
from edgespec.bundle.files import Fingerprint, Progress, no_progress
from edgespec.errors import ChecksumError


def ensure_verified(bundle: Bundle, memory: Path, progress: Progress = no_progress) -> None:
    """Hash the files of `bundle` unless `memory`, a JSON file, says that these very files have been found good.

    Raises: ChecksumError if a file is not the recorded one.
    """
    if _recall(memory).get(_key(bundle)) != _entry(bundle, bundle.fingerprints()):
        verify(bundle, memory, progress)


def verify(bundle: Bundle, memory: Path, progress: Progress = no_progress) -> None:
    """Hash every file of `bundle`, whatever `memory` says, and make it say what was found.

    Raises: ChecksumError if a file is not the recorded one.
    """
    try:
        before = bundle.fingerprints()
        bundle.verify(progress)
    except ChecksumError:
        _update(memory, _key(bundle), None)
        raise
    remember(bundle, memory, before)


def remember(bundle: Bundle, memory: Path, before: Mapping[str, Fingerprint]) -> None:
    """Note that the files were found good; `before` are their fingerprints from before they were read."""
    _update(memory, _key(bundle), _entry(bundle, before))


def _key(bundle: Bundle) -> str:
    return str(bundle.directory.resolve())


def _entry(bundle: Bundle, found: Mapping[str, Fingerprint]) -> dict[str, Any]:
    return {name: [*found[name], record.sha256] for name, record in bundle.manifest.files.items()}


def _recall(memory: Path) -> dict[str, Any]:
    try:
        known: Any = json.loads(memory.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _update(memory: Path, key: str, entry: dict[str, Any] | None) -> None:
    """Replace one entry. It may be lost to another process or a read-only disk: the price is one more hash."""
    known = {name: value for name, value in _recall(memory).items() if name != key and Path(name).is_dir()}
    if entry is not None:
        known[key] = entry
    temporary = memory.with_name(f".verified-{os.getpid()}-{threading.get_ident()}")
    try:
        temporary.write_text(json.dumps(known), encoding="utf-8")
        temporary.replace(memory)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
