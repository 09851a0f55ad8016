"""Earlier answers: used when asked for or not spoken of, left alone when told so, and shown where they are."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
ASK = ("run", "tiny", "hello there", "--json", "-n", "40")


@pytest.fixture(autouse=True)
def unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a user's machine."""
    monkeypatch.delenv("EDGESPEC_HISTORY", raising=False)


def test_answers_are_kept_where_doctor_says_until_they_are_deleted(run: Run, home: Path) -> None:
    first, second = (json.loads(run(*ASK).stdout) for _ in range(2))
    assert first["tokens"] == second["tokens"]
    assert "history" not in first["speculation"]["arms"]
    kept = list((home / "data" / "history").iterdir())
    assert len(kept) == 1
    assert kept[0].stat().st_size > 2 * 4 * len(first["tokens"])
    told = run("doctor").stdout
    assert "1 kB of earlier answers" in told
    assert str(home / "data" / "history") in told
    kept[0].unlink()
    assert "no earlier answers" in run("doctor").stdout


@pytest.mark.parametrize("way", ["flag", "environment"])
def test_told_so_it_keeps_nothing(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    if way == "environment":
        monkeypatch.setenv("EDGESPEC_HISTORY", "0")
    assert run(*ASK, *(["--no-history"] if way == "flag" else [])).returncode == 0
    assert not (home / "data").exists()


def test_the_benchmark_neither_uses_nor_keeps_any(run: Run, home: Path) -> None:
    run(*ASK)
    (kept,) = (home / "data" / "history").iterdir()
    before = kept.read_bytes()
    result = run("bench", "tiny", "--limit", "1", "-n", "8", "--json")
    assert result.returncode == 0
    assert kept.read_bytes() == before


def test_the_flag_before_a_command_is_refused_not_ignored(run: Run) -> None:
    result = run("--no-history", *ASK)
    assert result.returncode == 2
    assert "behind `run`" in result.stderr
