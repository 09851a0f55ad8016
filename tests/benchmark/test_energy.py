"""Energy as a machine's sysfs tells it, and nothing where it does not."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgespec.benchmark import energy
from edgespec.benchmark.energy import energy_meter
from edgespec.runtime import power


def put(path: Path, **files: object) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (path / name).write_text(f"{value}\n", encoding="ascii")
    return path


def package(sys: Path, number: int, microjoules: int, *, full: int = 1_000_000_000, name: str = "package") -> Path:
    zone = sys / f"class/powercap/intel-rapl:{number}"
    return put(zone, name=f"{name}-{number}", energy_uj=microjoules, max_energy_range_uj=full)


def test_packages_are_added_up_and_counters_begin_anew(tmp_path: Path) -> None:
    first, second = package(tmp_path, 0, 5_000_000), package(tmp_path, 1, 999_000_000)
    put(tmp_path / "class/powercap/intel-rapl:0:0", name="core", energy_uj=1, max_energy_range_uj=2)  # within a package
    package(tmp_path, 2, 0, name="psys")
    with energy_meter(tmp_path) as meter:
        assert meter is not None
        assert meter.source == "processor packages (RAPL)"
        start = meter.joules()
        put(first, energy_uj=8_000_000)
        assert meter.joules() - start == pytest.approx(3.0)
        put(second, energy_uj=1_000_000)  # from 999 over 1000 to 1
        assert meter.joules() - start == pytest.approx(5.0)
        (first / "energy_uj").unlink()
        assert math.isnan(meter.joules())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_counters_that_only_root_may_read(tmp_path: Path) -> None:
    (package(tmp_path, 0, 1) / "energy_uj").chmod(0)
    with energy_meter(tmp_path) as meter:
        assert meter is None


def test_a_counter_that_refuses_to_be_read_is_as_good_as_none(tmp_path: Path) -> None:
    package(tmp_path, 0, 1)
    (package(tmp_path, 1, 1) / "energy_uj").unlink()
    (tmp_path / "class/powercap/intel-rapl:1/energy_uj").mkdir()  # reading it is an OSError, for root too
    with energy_meter(tmp_path) as meter:
        assert meter is None


def test_no_sysfs_at_all(tmp_path: Path) -> None:
    with energy_meter(tmp_path / "nothing") as meter:
        assert meter is None


def hwmon(sys: Path, label: str, *, name: str = "ina3221") -> Path:
    return put(sys / "class/hwmon/hwmon3", name=name, in2_label=label, in2_input=5000, curr2_input=2000)


def iio(sys: Path, label: str) -> Path:
    chip = sys / "bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    return put(chip, rail_name_0=label, in_power0_input=10_000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Seconds that pass only when a test says so; no sample is taken in between."""
    now, before = [0.0], set(threading.enumerate())
    monkeypatch.setattr(energy, "_INTERVAL", 3600.0)
    monkeypatch.setattr(energy._Rail.__init__, "__defaults__", (lambda: now[0],))
    yield now
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("kind", ["hwmon", "iio"])
def test_the_power_of_a_jetson_is_summed_over_time(tmp_path: Path, clock: list[float], kind: str) -> None:
    chip = hwmon(tmp_path, "VDD_IN") if kind == "hwmon" else iio(tmp_path, "POM_5V_IN")
    with energy_meter(tmp_path) as meter:
        assert meter is not None
        assert meter.source == ("module (VDD_IN)" if kind == "hwmon" else "module (POM_5V_IN)")
        clock[0] = 2.0
        assert meter.joules() == pytest.approx(20.0)  # 10 W
        put(chip, **({"curr2_input": 4000} if kind == "hwmon" else {"in_power0_input": 20_000}))
        clock[0] = 3.0
        assert meter.joules() == pytest.approx(35.0)  # from 10 W to 20 W
        (chip / ("in2_input" if kind == "hwmon" else "in_power0_input")).unlink()
        assert math.isnan(meter.joules())


def test_a_rail_that_carries_a_part_of_the_power_is_not_taken(tmp_path: Path, clock: list[float]) -> None:
    hwmon(tmp_path, "VDD_CPU_CV")
    iio(tmp_path, "POM_5V_CPU")
    with energy_meter(tmp_path) as meter:
        assert meter is None
    hwmon(tmp_path, "VDD_IN", name="coretemp")
    with energy_meter(tmp_path) as meter:
        assert meter is None


def test_a_rail_is_sampled_while_nobody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "_INTERVAL", 0.001)
    chip = hwmon(tmp_path, "VDD_IN")
    sampled, before = threading.Event(), set(threading.enumerate())
    read = power.number_in

    def counting(path: Path) -> float:
        if threading.current_thread() is not threading.main_thread():
            sampled.set()
        return read(path)

    monkeypatch.setattr(power, "number_in", counting)
    with energy_meter(tmp_path) as meter:
        assert meter is not None
        assert sampled.wait(30.0)
        assert meter.joules() >= 0.0
    assert set(threading.enumerate()) <= before
    assert chip.exists()
