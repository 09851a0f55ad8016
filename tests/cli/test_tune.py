"""`tune` as a user sees it: a table, settings that are kept or not, and that can be undone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgespec.bundle import Store
from edgespec.cli import main
from edgespec.cli import tune as tune_module
from edgespec.profile import Profiles, Tuned, tuned_key
from edgespec.tuning.judge import SpeedUp
from edgespec.tuning.search import Choices, Outcome, Row
from edgespec.tuning.worker import Candidate

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def tuned(home: Path) -> Tuned | None:
    store = Store(home / "models")
    return Profiles(store).tuned(tuned_key(store.open("tiny"), "auto"))


def keep(home: Path, settings: Tuned) -> None:
    store = Store(home / "models")
    Profiles(store).keep_tuned(tuned_key(store.open("tiny"), "auto"), settings)


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"question_id": 1, "category": "qa", "turns": ["hello there"]}\n')
    return str(path)


def outcome(*, gain: SpeedUp | None) -> Outcome:
    before, best = Candidate("tiny", 2, "ngram", 8), Candidate("tiny", 1, "none", 8)
    rows = [
        Row("threads", "2", True, 7, 100.0, 1.0),
        Row("threads", "1", False, 7, 120.0, 1.2),
        Row("draft", "bad\x1bname", False, problem="its tokenizer differs"),
    ]
    return Outcome(rows, before, before if gain is None else best, gain)


@pytest.fixture
def finds(monkeypatch: pytest.MonkeyPatch) -> Callable[[Outcome], None]:
    """Make the search find an outcome at once."""

    def finds(found: Outcome) -> None:
        monkeypatch.setattr(tune_module.Search, "find", lambda self, before, choices: found)

    return finds


def test_tuning_for_real(
    home: Path, prompts: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    few = Choices(threads=(1,), drafts=("none",), draft_max=(), formats=())
    monkeypatch.setattr(tune_module, "choices", lambda bundle, store: few)
    assert main.run(["tune", "tiny", "--prompts", prompts, "--minutes", "0.01", "--json"]) == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert list(found) == ["model", "changed", "before", "best", "gain", "rows"]
    assert (found["model"], found["before"]["draft"], found["before"]["draft_max"]) == ("tiny", "ngram", 8)
    assert {(row["setting"], row["value"]) for row in found["rows"]} >= {("draft", "none"), ("draft", "ngram")}
    assert all(row["runs"] >= 4 and row["tokens_per_second"] > 0 for row in found["rows"])
    assert found["changed"] == (found["gain"] is not None and found["gain"]["low"] > 1.0)
    assert tuned(home) == (Tuned(**found["best"]) if found["changed"] else None)
    assert "edgespec: Trying drafts" in err


def test_a_certain_gain_is_kept_shown_and_used(
    run: Run, home: Path, finds: Callable[[Outcome], None], capsys: pytest.CaptureFixture[str]
) -> None:
    finds(outcome(gain=SpeedUp(1.2, 1.15, 1.25, 20)))
    assert main.run(["tune", "tiny"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[1].split() == ["threads", "2", "100.0", "–", "7"]
    assert lines[2].split() == ["threads", "1", "120.0", "1.20x", "7"]
    assert lines[3].endswith("cannot run: its tokenizer differs")
    assert lines[5].startswith(
        "1 thread, no draft: 1.200x as fast as 2 threads, draft ngram, at most 8 tokens long (95 %"
    )
    assert "\x1b" not in out
    assert "tiny now runs with 1 thread, no draft; `edgespec tune tiny --undo` goes back" in err
    assert tuned(home) == Tuned(1, "none", 8)
    assert "tuned         1 thread, no draft\n" in run("show", "tiny").stdout
    assert json.loads(run("show", "tiny", "--json").stdout)["tuned"] == {"threads": 1, "draft": "none", "draft_max": 8}
    answer = json.loads(run("run", "tiny", "hello", "--json", "-n", "4").stdout)
    assert answer["draft"] is None


def test_tuned_threads_are_used_unless_a_flag_says_otherwise(run: Run, home: Path, prompts: str) -> None:
    keep(home, Tuned(3, "ngram", 5))
    args = ("bench", "tiny", "--prompts", prompts, "-n", "4", "--json")
    environment = json.loads(run(*args).stdout)["environment"]
    assert (environment["threads"], environment["draft_max"]) == (3, 5)
    environment = json.loads(run(*args, "--threads", "2", "--draft-max", "4").stdout)["environment"]
    assert (environment["threads"], environment["draft_max"]) == (2, 4)


@pytest.mark.parametrize(
    ("gain", "says"),
    [
        (None, "nothing was changed: nothing looked faster"),
        (SpeedUp(1.2, 0.99, 1.5, 8), "nothing was changed: what looked faster is not, beyond chance"),
    ],
)
def test_without_a_certain_gain_nothing_is_changed(
    home: Path, finds: Callable[[Outcome], None], capsys: pytest.CaptureFixture[str], gain: SpeedUp | None, says: str
) -> None:
    keep(home, Tuned(2, "ngram", 4))
    finds(outcome(gain=gain))
    assert main.run(["tune", "tiny"]) == 0
    assert says in capsys.readouterr().err
    assert tuned(home) == Tuned(2, "ngram", 4)


@pytest.mark.parametrize(("load", "warned"), [(0.1, False), (64.0, True)])
def test_a_busy_machine_is_named(
    home: Path,
    finds: Callable[[Outcome], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    load: float,
    warned: bool,
) -> None:
    monkeypatch.setattr("psutil.getloadavg", lambda: (load, 0.0, 0.0))
    finds(outcome(gain=None))
    assert main.run(["tune", "tiny"]) == 0
    assert ("this machine is busy" in capsys.readouterr().err) == warned


def test_undo_goes_back_one_step_at_a_time(run: Run, home: Path) -> None:
    keep(home, Tuned(2, "ngram", 4))
    keep(home, Tuned(1, "none", 8))
    for says, left in (
        ("tiny runs with 2 threads, draft ngram, at most 4 tokens long again", Tuned(2, "ngram", 4)),
        ("tiny runs as if never tuned again", None),
        ("tiny was not tuned here, so there is nothing to undo", None),
    ):
        result = run("tune", "tiny", "--undo")
        assert (result.returncode, result.stdout) == (0, "")
        assert result.stderr.endswith(f"edgespec: {says}\n")
        assert tuned(home) == left
    assert "tuned         no;" in run("show", "tiny").stdout


def test_ctrl_c_leaves_everything_as_it_was(home: Path, prompts: str) -> None:
    keep(home, Tuned(1, "ngram", 4))
    command = [sys.executable, "-m", "edgespec", "tune", "tiny", "--prompts", prompts]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "Trying" in line:
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert err.endswith("edgespec: interrupted\n")
    assert tuned(home) == Tuned(1, "ngram", 4)
    workers = [path for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK) and _is_of(path, home)]
    assert workers == []


def _is_of(cmdline: Path, home: Path) -> bool:
    """Whether the process is a worker of this test's home."""
    try:
        return (
            b"edgespec.tuning.worker" in cmdline.read_bytes()
            and str(home).encode() in cmdline.with_name("environ").read_bytes()
        )
    except OSError:
        return False


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["tinny"], 3, "did you mean tiny"),
        (["tiny", "--minutes", "0"], 2, "--minutes"),
        (["tiny", "--prompts", "nowhere.jsonl"], 2, "nowhere.jsonl cannot be read"),
        (["--offline"], 3, "`edgespec pull smollm2-135m` fetches it"),
    ],
)
def test_one_sentence_and_the_exit_code(run: Run, args: list[str], code: int, says: str) -> None:
    result = run("tune", *args)
    assert (result.returncode, result.stdout) == (code, "")
    assert says in result.stderr
