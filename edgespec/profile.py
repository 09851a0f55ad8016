"""What was measured of a model on this machine, and what `edgespec tune` made of it, kept beside the models. What is
lost is measured again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgespec.bundle import Bundle, ForeignBundle, Store
from edgespec.decoding.costs import Costs
from edgespec.errors import UsageError
from edgespec.runtime.device import DeviceChoice, likely_device
from edgespec.runtime.power import power_condition

_DIRECTORY = ".profiles"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Tuned:
    """The settings that are best for a model here. `draft` as `open_chat` takes it."""

    threads: int
    draft: str
    draft_max: int

    @property
    def words(self) -> str:
        """The settings as a person would say them."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{threads}, " + (
            "no draft" if self.draft == "none" else f"draft {self.draft}, at most {self.draft_max} tokens long"
        )

    @classmethod
    def from_json(cls, value: Any) -> Tuned:
        """Raises: UsageError for what `asdict` did not make."""
        try:
            found = cls(int(value["threads"]), str(value["draft"]), int(value["draft_max"]))
            if not (0 < found.threads <= 256 and 0 < found.draft_max <= 64):
                raise ValueError("out of range")
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError("the tuned settings are damaged; run `edgespec tune` again") from error
        return found


class Profiles:
    """The measurements of one store's models. A file for each: it is small, and two programs may write at a time."""

    def __init__(self, store: Store) -> None:
        self._root = store.root / _DIRECTORY

    def costs(self, key: str) -> Costs | None:
        """What was measured under `key`, or None."""
        try:
            return Costs.from_json(self._read(key))
        except (OSError, ValueError, UsageError, RecursionError):
            return None

    def keep_costs(self, key: str, costs: Costs) -> None:
        """Write it whole or not at all; a disk that cannot be written only means measuring again."""
        with contextlib.suppress(OSError):
            self._write(key, costs.to_json())

    def tuned(self, key: str) -> Tuned | None:
        """The settings that were kept last under `key`, or None."""
        return next(reversed(self._all_tuned(key)), None)

    def keep_tuned(self, key: str, tuned: Tuned) -> None:
        """Keep settings in front of those that were there. Raises: UsageError if the disk cannot be written."""
        self._replace_tuned(key, [*self._all_tuned(key), tuned])

    def undo_tuned(self, key: str) -> bool:
        """Go back to what was there before the last `keep_tuned`; False if there is nothing to undo.

        Raises: UsageError if the disk cannot be written.
        """
        found = self._all_tuned(key)
        if found:
            self._replace_tuned(key, found[:-1])
        return bool(found)

    def _all_tuned(self, key: str) -> list[Tuned]:
        try:
            return [Tuned.from_json(entry) for entry in self._read(key)]
        except (OSError, ValueError, TypeError, UsageError, RecursionError):
            return []

    def _replace_tuned(self, key: str, tuned: Sequence[Tuned]) -> None:
        try:
            self._write(key, [asdict(settings) for settings in tuned])
        except OSError as error:
            raise UsageError(f"{self._root} cannot be written ({error.strerror}), so nothing was changed.") from error

    def _read(self, key: str) -> Any:
        path = self._path(key)
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("larger than anything that was written")
        return json.loads(path.read_text(encoding="utf-8"))

    def _write(self, key: str, value: Any) -> None:
        """Whole or not at all. Raises: OSError."""
        self._root.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._root)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(value, file)
            Path(name).replace(self._path(key))
        except OSError:
            Path(name).unlink()
            raise

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
    """Names all that the costs depend on: the graphs, the devices and their threads, the power that they may draw, and
    the versions that run them."""
    from edgespec.runtime.session import runtime_version  # slow to import, and not needed to look up what was tuned

    graphs = [_graph_identity(bundle) for bundle in (target, *drafts)]
    parts = [graphs, device, threads, k_max, runtime_version(), version("edgespec"), platform.machine(), _processor()]
    parts += _condition()
    return f"{target.name}-{_digest(parts)}"


def tuned_key(target: Bundle | ForeignBundle, device: DeviceChoice) -> str:
    """Names what tuned settings depend on: the graph, the device, the processor and its power. They outlive an
    update."""
    parts = [_graph_identity(target), likely_device(device), _processor(), *_condition()]
    return f"{target.name}-tuned-{_digest(parts)}"


def _condition() -> list[str]:
    """Nothing on mains: most machines know no other."""
    return [condition] if (condition := power_condition()) else []


def _digest(parts: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


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
