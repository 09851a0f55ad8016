"""What feeds this machine and how much it may draw: battery or mains, and on a Jetson its power mode and rails."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

_ROOT: Final = Path("/")
_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>")
_RELEASE = re.compile(r"R(\d+) \(release\), REVISION: ([\d.]+)")


@dataclass(frozen=True, slots=True)
class Rail:
    """A power rail that is measured. `watts` raises OSError or ValueError once it cannot be read."""

    name: str
    watts: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Jetson:
    """model: of the module or board. linux: the version of Jetson Linux (L4T). mode: the power mode's name, or its
    number where only that is known; None where neither is."""

    model: str
    linux: str | None
    mode: str | None


def find_jetson(root: Path = _ROOT) -> Jetson | None:
    """The Jetson that this is, if it is one. root: where its file system is mounted."""
    model = text_of(root / "proc/device-tree/model").rstrip("\0")
    release = _RELEASE.search(text_of(root / "etc/nv_tegra_release"))
    if "Jetson" not in model and release is None:
        return None
    return Jetson(model or "Jetson", f"{release[1]}.{release[2]}" if release else None, _power_mode(root))


def power_condition(root: Path = _ROOT) -> str:
    """What of the power changes how fast the machine is: "on battery", a Jetson's power mode, both, or nothing."""
    jetson = find_jetson(root)
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    on_battery = battery is not None and battery.power_plugged is False
    mode = f"power mode {jetson.mode}" if jetson and jetson.mode else ""
    return ", ".join(filter(None, ("on battery" if on_battery else "", mode)))


def rails(sys: Path = _ROOT / "sys") -> list[Rail]:
    """The rails of INA3221 sensors that can be read. sys: where sysfs is mounted."""
    return [rail for rail in (*_hwmon_rails(sys), *_iio_rails(sys)) if _readable(rail.watts)]


def text_of(path: Path) -> str:
    """The text in a file, stripped; nothing if it cannot be read."""
    with suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8").strip()
    return ""


def number_in(path: Path) -> float:
    """Raises: OSError, ValueError."""
    return float(path.read_text(encoding="ascii"))


def _power_mode(root: Path) -> str | None:
    """NVIDIA's nvpmodel notes the mode that it set as `pmode:0002`, and has their names in its configuration."""
    number = text_of(root / "var/lib/nvpmodel/status").partition("pmode:")[2][:4]
    if not number.isdigit():
        return None
    names = {int(n): name for n, name in _MODE.findall(text_of(root / "etc/nvpmodel.conf"))}
    return names.get(int(number), str(int(number)))


def _hwmon_rails(sys: Path) -> Iterator[Rail]:
    """As hwmon shows them (Linux's Documentation/hwmon/ina3221.rst): mV, mA."""
    for chip in sorted(sys.glob("class/hwmon/hwmon*")):
        if text_of(chip / "name") != "ina3221":
            continue
        for channel in (1, 2, 3):
            volts, amperes = chip / f"in{channel}_input", chip / f"curr{channel}_input"

            def watts(volts: Path = volts, amperes: Path = amperes) -> float:
                return number_in(volts) * number_in(amperes) * 1e-6

            if name := text_of(chip / f"in{channel}_label"):
                yield Rail(name, watts)


def _iio_rails(sys: Path) -> Iterator[Rail]:
    """The same as NVIDIA's older kernels show it: mW."""
    for chip in sorted(sys.glob("bus/i2c/drivers/ina3221x/*/iio:device*")):
        for channel in (0, 1, 2):
            power = chip / f"in_power{channel}_input"

            def watts(power: Path = power) -> float:
                return number_in(power) * 1e-3

            if name := text_of(chip / f"rail_name_{channel}"):
                yield Rail(name, watts)


def _readable(read: Callable[[], float]) -> bool:
    with suppress(OSError, ValueError):
        read()
        return True
    return False
