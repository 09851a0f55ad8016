"""`python -m export` where PyTorch is not installed: what needs it says so, what does not works."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import write_checkpoint_of_gguf
from tiny import write_tiny_gguf


def export(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "export", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_without_the_extra(home: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("torch") is not None:
        pytest.skip("PyTorch is installed here")
    folder = write_checkpoint_of_gguf(write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "Fresh")
    refused = export("hf", str(folder))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "exporting needs torch, transformers, optimum; install" in refused.stderr
    dry = export("hf", str(folder), "--dry-run")
    assert dry.returncode == 0
    assert "name          fresh\n" in dry.stdout
    assert not (home / "models" / "fresh").exists()


def test_mistakes_are_one_sentence(home: Path) -> None:
    for args, code, said in [
        (["hf", "nothing", "--dry-run"], 3, "the catalog has no model nothing"),
        (["hf"], 2, "python -m export hf --help"),
        (["hf", str(home), "--dry-run"], 3, "has no config.json"),
    ]:
        result = export(*args)
        assert (result.returncode, result.stdout) == (code, "")
        assert said in result.stderr.splitlines()[-1]
