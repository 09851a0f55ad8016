"""The one command for machines with a GPU goes all of its ways here, but for CUDA itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from fake_cuda import FakeCuda

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.common import Bench, Finding


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments])
    with pytest.raises(SystemExit) as left:
        command.main()
    return left.value.code


def test_every_section_runs_and_finds_nothing_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not start(monkeypatch, "--dry-run", "--out", str(tmp_path / "gpu.json"))
    found = [Finding(**entry) for entry in json.loads((tmp_path / "gpu.json").read_text())]
    assert [f.what for f in found if f.what in ("left out", "failed")] == []
    assert {f.section for f in found} == {section.name for section in command.SECTIONS}
    assert sum(f.good is True for f in found) == 17
    assert not any(f.good is False for f in found)
    figures = {f"{f.section}: {f.what}": f.value for f in found}
    assert figures["default: greedy: the largest copy"] < figures["default: all of it: the largest copy"]
    assert len(capsys.readouterr().out.splitlines()) == len(found)


def test_what_there_is_no_time_for_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench("cpu", small=True, scratch=tmp_path, model="none")
    found = command.run(bench, command.SECTIONS, 0.0, tmp_path / "gpu.json")
    assert [f.value for f in found if f.what == "left out"] == ["no time is left"] * len(command.SECTIONS)
    found = command.run(bench, command.SECTIONS[1:2], 0.001, tmp_path / "gpu.json")
    assert "the rest, for want of time" in [f.value for f in found]


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(missing=["libcuda.so.1"]).install(monkeypatch)
    assert "no NVIDIA driver is installed; --dry-run goes" in str(start(monkeypatch))


def test_a_section_that_fails_does_not_end_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Bench) -> None:
        raise RuntimeError("CUDA failure 2: out of memory")

    sections = [command.Section("broken", broken, 9.0), command.SECTIONS[0]]  # pyright: ignore[reportArgumentType]
    bench = Bench("cpu", small=True, scratch=tmp_path, model="none")
    found = command.run(bench, sections, 60.0, tmp_path / "gpu.json")
    assert [(f.section, f.good) for f in found if f.what == "failed"] == [("broken", False)]
    assert found[-1].section == "environment"
