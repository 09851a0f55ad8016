"""What was measured of a model on this machine, kept beside the models. What is lost is measured again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgespec.bundle import Bundle, ForeignBundle, Store
from edgespec.decoding.costs import Costs
from edgespec.errors import UsageError
from edgespec.runtime.session import runtime_version

_DIRECTORY = ".profiles"
_MAX_BYTES = 1 << 20


class Profiles:
    """The measurements of one store's models. A file for each: it is small, and two programs may write at a time."""

    def __init__(self, store: Store) -> None:
        self._root = store.root / _DIRECTORY

    def costs(self, key: str) -> Costs | None:
        """What was measured under `key`, or None."""
        try:
            path = self._path(key)
            if path.stat().st_size > _MAX_BYTES:
                return None
            entry: Any = json.loads(path.read_text(encoding="utf-8"))
            return Costs.from_json(entry)
        except (OSError, ValueError, UsageError, RecursionError):
            return None

    def keep_costs(self, key: str, costs: Costs) -> None:
        """Write it whole or not at all; a disk that cannot be written only means measuring again."""
        with contextlib.suppress(OSError):
            self._root.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._root)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(costs.to_json(), file)
                Path(name).replace(self._path(key))
            except OSError:
                Path(name).unlink()

    def _path(self, key: str) -> Path:
        return self._root / f"{key}.json"


def profile_key(
    target: Bundle | ForeignBundle,
    drafts: Sequence[Bundle | ForeignBundle],
    *,
    device: str,
    threads: int,
    k_max: int,
) -> str:
    """Names all that the costs depend on: the graphs, the device and its threads, and the versions that run them."""
    graphs = [_graph_identity(bundle) for bundle in (target, *drafts)]
    parts = [graphs, device, threads, k_max, runtime_version(), version("edgespec"), platform.machine(), _processor()]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return f"{target.name}-{digest[:16]}"


def _graph_identity(bundle: Bundle | ForeignBundle) -> list[str | int]:
    """A folder of somebody else's has no hashes, and hashing its files would take longer than measuring."""
    if isinstance(bundle, Bundle):
        return [bundle.manifest.files[bundle.manifest.graph].sha256]
    stat = bundle.graph.stat()
    return [str(bundle.graph), stat.st_size, stat.st_mtime_ns]


def _processor() -> str:
    """The processor's model, where the system says it."""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith(("model name", "Model", "CPU part")):
                return line.partition(":")[2].strip()
    return platform.processor()
