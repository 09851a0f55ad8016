"""What `doctor` says of a GPU, and of what is missing for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_cuda import FakeCuda

from edgespec.cli import hardware, main
from edgespec.runtime.power import Jetson, Rail


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESPEC_HOME", str(tmp_path))


def lines(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert main.run(["doctor"]) == 0
    return {line[:12].strip(): line[12:] for line in capsys.readouterr().out.splitlines()}


def test_a_gpu_that_can_be_used(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    FakeCuda(free=5_000_000_000, total=8_000_000_000).install(monkeypatch)
    said = lines(capsys)
    assert said["gpu"] == "NVIDIA Test, compute capability 8.9, 8.0 GB, 5.0 GB free"
    assert said["cuda"] == "driver 580.65.06 (CUDA 13.1), ONNX Runtime for CUDA 13.0, cuDNN 9.3.0"
    assert "cannot be used" not in said.values()


def test_what_is_missing_and_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeCuda(missing=["libcudart.so.13", "libcudnn.so.9"]).install(monkeypatch)
    said = lines(capsys)
    assert said["cuda"].endswith("no cuDNN")
    assert said[""] == (
        "cannot be used: libcudart.so.13 cannot be loaded; to change that: pip install 'onnxruntime-gpu[cuda,cudnn]'"
    )
    main.run(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)["cuda"]
    assert (found["missing"], found["gpu"]["compute"]) == (["libcudart.so.13"], [8, 9])


def test_a_machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    FakeCuda(missing=["libcuda.so.1"]).install(monkeypatch)
    said = lines(capsys)
    assert said["cuda"].startswith("cannot be used: no NVIDIA driver is installed; to change that: install NVIDIA's")
    assert not {"gpu", "rails", "jetson"} & said.keys()


def test_a_jetson(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def gone() -> float:
        raise OSError

    monkeypatch.setattr(hardware, "find_jetson", lambda: Jetson("NVIDIA Jetson AGX Orin", "39.2.0", "MAXN"))
    monkeypatch.setattr(hardware, "power_condition", lambda: "power mode MAXN")
    monkeypatch.setattr(hardware, "rails", lambda: [Rail("VDD_IN", lambda: 6.1234), Rail("VDD_SOC", gone)])
    FakeCuda(shares_memory=True).install(monkeypatch)
    said = lines(capsys)
    assert said["jetson"] == "NVIDIA Jetson AGX Orin, Jetson Linux 39.2.0"
    assert said["power"] == "power mode MAXN"
    assert said["rails"] == "VDD_IN 6.12 W"
    assert "shared with the processor" in said["gpu"]
