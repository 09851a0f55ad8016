"""Energy, where the machine tells: the RAPL counters of x86 processors, or the rail that feeds a Jetson module.

Rails that carry only a part of the power are not taken: what they leave out is not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread
from time import perf_counter

from edgespec.runtime.power import number_in, rails, text_of

_SYS = Path("/sys")
_WHOLE = ("VDD_IN", "POM_5V_IN")
"""What NVIDIA calls the rail that carries all of a module's power."""
_INTERVAL = 0.1
"""Seconds between two samples of a rail: it tells power, not energy."""


@dataclass(frozen=True, slots=True)
class EnergyMeter:
    """`source` says whose energy it is; `joules` what was used since it was opened, NaN once it cannot be read."""

    source: str
    joules: Callable[[], float]


@contextmanager
def energy_meter(sys: Path = _SYS) -> Generator[EnergyMeter | None]:
    """The machine's meter while the context lasts, or None: no such counters, or they may not be read (most systems
    let only root read RAPL). sys: where sysfs is mounted."""
    if zones := _rapl_zones(sys):
        yield EnergyMeter("processor packages (RAPL)", _Rapl(zones).joules)
        return
    whole = next((rail for rail in rails(sys) if rail.name in _WHOLE), None)
    if whole is None:
        yield None
        return
    rail = _Rail(whole.watts)
    try:
        yield EnergyMeter(f"module ({whole.name})", rail.joules)
    finally:
        rail.close()


def _rapl_zones(sys: Path) -> list[Path]:
    """The zones of all processor packages, or none. See Linux's Documentation/power/powercap/powercap.rst."""
    zones = sorted(sys.glob("class/powercap/intel-rapl:*"))
    packages = [zone for zone in zones if text_of(zone / "name").startswith("package-")]
    files = [z / name for z in packages for name in ("energy_uj", "max_energy_range_uj")]
    try:
        return packages if all(number_in(f) >= 0.0 for f in files) else []
    except (OSError, ValueError):
        return []


class _Rapl:
    """Counters of microjoules that begin anew when they are full: sooner than a minute on no machine."""

    def __init__(self, zones: list[Path]) -> None:
        self._counters = [zone / "energy_uj" for zone in zones]
        self._ranges = [number_in(zone / "max_energy_range_uj") for zone in zones]
        self._last = [number_in(counter) for counter in self._counters]
        self._total = 0.0

    def joules(self) -> float:
        try:
            now = [number_in(counter) for counter in self._counters]
        except (OSError, ValueError):
            self._total = math.nan
            return self._total
        for value, last, full in zip(now, self._last, self._ranges, strict=True):
            self._total += (value - last + (full if value < last else 0.0)) * 1e-6
        self._last = now
        return self._total


class _Rail:
    """Power summed up over time, sampled in a thread of its own until `close`."""

    def __init__(self, watts: Callable[[], float], clock: Callable[[], float] = perf_counter) -> None:
        self._watts, self._clock = watts, clock
        self._total, self._last, self._at = 0.0, watts(), clock()
        self._lock, self._closed = Lock(), Event()
        self._thread = Thread(target=self._sample, daemon=True)
        self._thread.start()

    def joules(self) -> float:
        with self._lock:
            try:
                watts, at = self._watts(), self._clock()
            except (OSError, ValueError):
                self._total = math.nan
                return self._total
            self._total += (watts + self._last) / 2 * (at - self._at)
            self._last, self._at = watts, at
            return self._total

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._closed.wait(_INTERVAL):
            self.joules()
