"""The one command for machines with a GPU goes all of its ways here, but for CUDA itself."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from fake_cuda import FakeCuda

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.common import Bench, Finding, NoTimeError, Section
from benchmarks.gpu.sections import run_section


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments])
    with pytest.raises(SystemExit) as left:
        command.main()
    return left.value.code


def test_every_section_runs_and_finds_nothing_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench("cpu", small=True, scratch=tmp_path, model="none")
    found = [f for s in command.SECTIONS for f in run_section(bench, s, 60.0, tmp_path / "out.json")]
    assert [(f.section, f.value) for f in found if f.what == "failed"] == []
    assert [f.section for f in found if f.what == "left out"] == ["genai"]
    assert {f.section for f in found} == {section.name for section in command.SECTIONS}
    assert sum(f.good is True for f in found) == 23
    assert not any(f.good is False for f in found)
    figures = {f"{f.section}: {f.what}": f.value for f in found}
    assert figures["default: greedy: the largest copy"] < figures["default: all of it: the largest copy"]
    assert "onnxruntime-genai==" in figures["genai: left out"]
    assert len(capsys.readouterr().out.splitlines()) == len(found)


def test_sections_run_in_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "gpu.json"
    assert not start(monkeypatch, "--dry-run", "--only", "environment", "--only", "failure", "--out", str(out))
    found = [Finding(**entry) for entry in json.loads(out.read_text())]
    assert {f.section for f in found} == {"environment", "failure"}
    assert all(f.good for f in found if f.good is not None)


def test_what_there_is_no_time_for_is_left_out(tmp_path: Path) -> None:
    found = command.run(command.SECTIONS, [], 0.0, tmp_path / "gpu.json")
    assert [f.value for f in found] == ["no time is left"] * len(command.SECTIONS)

    def slow(_: Bench) -> None:
        raise NoTimeError

    bench = Bench("cpu", small=True, scratch=tmp_path, model="none")
    found = run_section(bench, Section("slow", slow, 1.0), 1.0, tmp_path / "out.json")  # pyright: ignore[reportArgumentType]
    assert found[0].value == "the rest, for want of time"


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(missing=["libcuda.so.1"]).install(monkeypatch)
    assert "no NVIDIA driver is installed; --dry-run goes" in str(start(monkeypatch))


def test_a_section_that_fails_says_why(tmp_path: Path) -> None:
    def broken(_: Bench) -> None:
        raise RuntimeError("CUDA failure 2: out of memory")

    bench = Bench("cpu", small=True, scratch=tmp_path, model="none")
    section = Section("broken", broken, 9.0)  # pyright: ignore[reportArgumentType]
    found = run_section(bench, section, 9.0, tmp_path / "out.json")
    assert [(f.section, f.value, f.good) for f in found if f.what == "failed"] == [
        ("broken", "RuntimeError: CUDA failure 2: out of memory", False)
    ]
    assert json.loads((tmp_path / "out.json").read_text())[0]["what"] == "failed"


def test_a_process_that_dies_does_not_end_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A section that the child does not know stands for one that takes the process with it."""
    gone = Section("gone", command.SECTIONS[0].run, 9.0)
    found = command.run([gone, command.SECTIONS[0]], ["--dry-run"], 60.0, tmp_path / "gpu.json")
    assert (found[0].section, found[0].what, found[0].good) == ("gone", "failed", False)
    assert "its process ended with 2" in found[0].value
    assert found[-1].section == "environment"
    assert len(json.loads((tmp_path / "gpu.json").read_text())) == len(found)
    monkeypatch.setattr(command, "_START", 0.0)
    found = command.run([command.SECTIONS[0]], ["--dry-run"], 0.05, tmp_path / "gpu.json")
    assert "did not come back" in found[-1].value


@pytest.mark.slow
@pytest.mark.skipif("EDGESPEC_GENAI" not in os.environ, reason="EDGESPEC_GENAI names no Python with onnxruntime-genai")
def test_the_peer_is_timed_beside_it(tmp_path: Path) -> None:
    bench = Bench("cpu", small=True, scratch=tmp_path, model="none", genai=Path(os.environ["EDGESPEC_GENAI"]))
    found = run_section(bench, command.SECTIONS[-1], 60.0, tmp_path / "out.json")
    assert {f.what: f.value for f in found}["the same text"] is True


def test_a_peer_that_cannot_be_started_is_told_of(tmp_path: Path) -> None:
    bench = Bench("cpu", small=True, scratch=tmp_path, model="none", genai=Path(sys.executable))
    found = run_section(bench, command.SECTIONS[-1], 60.0, tmp_path / "out.json")
    failed = next(f for f in found if f.what == "failed")
    assert "No module named 'onnxruntime_genai'" in failed.value
