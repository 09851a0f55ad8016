"""Battery, power modes and rails, on a file system made for it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from edgespec.runtime import power
from edgespec.runtime.power import Jetson, find_jetson, power_condition, rails

FILES = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "var/lib/nvpmodel/status": "pmode:0001",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=25W >\n",
    "sys/class/hwmon/hwmon0/name": "thermal\n",
    "sys/class/hwmon/hwmon2/name": "ina3221\n",
    "sys/class/hwmon/hwmon2/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon2/in1_input": "5000\n",
    "sys/class/hwmon/hwmon2/curr1_input": "1200\n",
    "sys/class/hwmon/hwmon2/in2_label": "VDD_CPU_GPU_CV\n",
    "sys/class/hwmon/hwmon2/in2_input": "5000\n",
    "sys/class/hwmon/hwmon2/curr2_input": "400\n",
    "sys/class/hwmon/hwmon2/in3_label": "VDD_SOC\n",
    "sys/bus/i2c/drivers/ina3221x/7-0040/iio:device0/rail_name_0": "VDD_GPU_SOC\n",
    "sys/bus/i2c/drivers/ina3221x/7-0040/iio:device0/in_power0_input": "2500\n",
}


@pytest.fixture
def jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    on_mains(monkeypatch)
    return tmp_path


def on_mains(monkeypatch: pytest.MonkeyPatch, plugged: bool | None = True) -> None:
    monkeypatch.setattr(power.psutil, "sensors_battery", lambda: SimpleNamespace(power_plugged=plugged))


def test_a_jetson_says_what_it_is(jetson: Path) -> None:
    assert find_jetson(jetson) == Jetson("NVIDIA Jetson Orin Nano Developer Kit", "36.4.3", "25W")


def test_a_mode_without_a_name_has_its_number(jetson: Path) -> None:
    (jetson / "etc/nvpmodel.conf").unlink()
    assert find_jetson(jetson) == Jetson("NVIDIA Jetson Orin Nano Developer Kit", "36.4.3", "1")
    (jetson / "var/lib/nvpmodel/status").write_text("unknown", encoding="ascii")
    (jetson / "etc/nv_tegra_release").unlink()
    assert find_jetson(jetson) == Jetson("NVIDIA Jetson Orin Nano Developer Kit", None, None)


def test_the_rails_that_can_be_read(jetson: Path) -> None:
    found = {rail.name: rail.watts() for rail in rails(jetson / "sys")}
    assert found == pytest.approx({"VDD_IN": 6.0, "VDD_CPU_GPU_CV": 2.0, "VDD_GPU_SOC": 2.5})


def test_what_changes_how_fast_a_machine_is(jetson: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    assert power_condition(jetson) == "power mode 25W"
    assert power_condition(elsewhere) == ""
    on_mains(monkeypatch, plugged=False)
    assert power_condition(jetson) == "on battery, power mode 25W"
    assert power_condition(elsewhere) == "on battery"
    on_mains(monkeypatch, plugged=None)
    assert power_condition(elsewhere) == ""
    monkeypatch.delattr(power.psutil, "sensors_battery")
    assert power_condition(elsewhere) == ""


def test_a_machine_that_is_no_jetson(tmp_path: Path) -> None:
    assert find_jetson(tmp_path) is None
    assert rails(tmp_path / "sys") == []
