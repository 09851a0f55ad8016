"""`doctor`: the truth about this machine, also where it is inconvenient."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edgespec.cli import main
from edgespec.decoding.protocols import Logits
from edgespec.runtime.model import OnnxCausalLM

Run = Callable[..., "subprocess.CompletedProcess[str]"]
KEYS = [
    *("python", "system", "packages", "cores", "memory_available_mb", "models", "history", "conversations"),
    *("cuda", "power"),
    *("model", "device", "device_reason", "threads", "exact", "resident_mb"),
]


@pytest.fixture
def home(tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home itself, not a copy: nothing here changes it, and its files are known to be right."""
    monkeypatch.setenv("EDGESPEC_HOME", str(tiny_home))
    return tiny_home


def test_a_model_is_probed(run: Run, home: Path) -> None:
    result = run("doctor", "tiny", "--json", "--threads", "1", "--device", "cpu")
    assert result.returncode == 0
    found = json.loads(result.stdout)
    assert list(found) == KEYS
    assert (found["model"], found["threads"], found["device"]) == ("tiny", 1, "cpu")
    assert found["exact"] is True
    assert found["models"] == str(home / "models")
    assert {"edgespec", "onnx", "numpy"} <= found["packages"].keys()
    assert 0 < found["resident_mb"] < 2000
    assert found["cores"] >= 1


def test_as_text(run: Run) -> None:
    result = run("doctor", "tiny")
    assert result.returncode == 0
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["model"] == "tiny"
    assert lines["device"].startswith("cpu (")
    assert lines["exact"].startswith("mode  holds")
    assert result.stderr == ""


def test_without_a_model_it_says_how_to_get_one(run: Run) -> None:
    result = run("doctor", "--json")
    found = json.loads(result.stdout)
    assert (result.returncode, list(found)) == (0, KEYS)
    assert found["model"] is found["device"] is found["exact"] is None
    assert "edgespec pull smollm2-135m" in result.stderr
    assert "exact mode" not in run("doctor").stdout


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [(["tinny"], 3, "did you mean tiny"), (["tiny", "--threads", "0"], 2, "threads cannot be 0")],
)
def test_one_sentence_and_the_exit_code(run: Run, args: list[str], code: int, says: str) -> None:
    result = run("doctor", *args, "--json")
    assert (result.returncode, result.stdout) == (code, "")
    assert says in result.stderr


def test_a_machine_on_which_exact_mode_does_not_hold(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = OnnxCausalLM.forward

    def uneven(self: OnnxCausalLM, ids: Sequence[int], rows: int | None = None) -> Logits:
        logits = forward(self, ids, rows)
        logits[0, 0] += len(ids) == 5
        return logits

    monkeypatch.setattr(OnnxCausalLM, "forward", uneven)
    assert main.run(["doctor", "tiny", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["exact"] is False
    assert "may depend on the draft" in err
    assert main.run(["doctor", "tiny"]) == 0
    assert "exact mode  DOES NOT HOLD" in capsys.readouterr().out


SMALL = "layers=2,hidden=64,ffn=128,heads=2,kv_heads=1,head_size=32,vocab=512"
SMALLER = SMALL.replace("layers=2", "layers=1")


def test_a_pair_is_judged_before_anything_is_fetched(run: Run) -> None:
    result = run("doctor", "--pair", SMALL, SMALLER, "--json", "--threads", "1", "--weights", "int4")
    assert result.returncode == 0
    found = json.loads(result.stdout)
    assert (found["target"]["layers"], found["draft"]["layers"], found["threads"]) == (2, 1, 1)
    assert found["weights"] == "int4"
    assert len(found["pass_ms"]) == 9
    assert [p["acceptance"] for p in found["predictions"]] == [0.5, 0.6, 0.7, 0.8]
    assert all(p["speedup"] >= 1.0 for p in found["predictions"])
    assert "edgespec: Timing the pair" in result.stderr


def test_a_pair_as_text(run: Run) -> None:
    result = run("doctor", "--pair", SMALL, "ngram")
    assert result.returncode == 0
    keys = [line.split("  ")[0] for line in result.stdout.splitlines()]
    assert keys[:6] == ["target", "draft", "memory", "plain step", "pass", "draft step"]
    assert keys[6:] == ["accepted"] * 4 + ["verdict"]
    assert "ngram: looked up" in result.stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--pair", "0.6B", "4B"], "is not smaller than the target"),
        (["--pair", "large", "small"], "'large' is no model's size; give a name of `edgespec list --catalog`"),
        (["tiny", "--pair", "4B", "0.6B"], "leave out the name"),
        (["--pair", "4B"], "requires 2 arguments"),
    ],
)
def test_pairs_that_cannot_be_judged(run: Run, args: list[str], says: str) -> None:
    result = run("doctor", *args)
    assert (result.returncode, result.stdout) == (2, "")
    assert says in result.stderr
