"""Exit codes, one-sentence errors, nothing imported that is not needed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from edgespec import errors
from edgespec.bundle import Store
from edgespec.cli import main

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_version(run: Run) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    result = run("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"edgespec {project['version']}\n", "")


def test_help_names_every_command(run: Run) -> None:
    result = run("--help")
    assert result.returncode == 0
    for name in ("pull", "list", "show", "rm", "verify"):
        assert re.search(rf"^  {name} ", result.stdout, re.MULTILINE)
        assert run(name, "-h").stdout.startswith(f"Usage: edgespec {name}")


def test_version_waits_for_no_heavy_import(home: Path) -> None:
    code = (
        "import sys; from edgespec.cli.main import run; code = run(['--version']);"
        "heavy = {'numpy', 'onnx', 'onnxruntime', 'tokenizers', 'jinja2', 'textual', 'rich', 'platformdirs'};"
        "print(code, sorted(heavy & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["lst"], 2, "there is no command lst; did you mean list?"),
        (["qqq"], 2, "there is no command qqq; try `edgespec --help`"),
        (["--vers"], 2, "No such option '?--vers'?.*--version"),
        (["pull", "tiny", "--nam", "x"], 2, "No such option '?--nam'?.*--name"),
        (["show"], 2, "Missing argument 'NAME'; try `edgespec show --help`"),
        (["show", "tiny", "more"], 2, "unexpected extra argument"),
        (["show", "a b"], 2, "cannot be a model's name"),
        (["pull", "tiny.gguf", "--keep-layers", "x"], 2, "no list of layers"),
        (["show", "tinny"], 3, "did you mean tiny"),
        (["pull", "smollm-135m"], 3, "did you mean smollm2-135m"),
        (["pull", "./nothing.gguf"], 3, "there is no file ./nothing.gguf"),
        (["rm", "tiny", "nothing", "--yes"], 3, "there is no model nothing"),
        (["pull", "smollm2-135m", "--offline"], 4, "--offline"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_sentence_and_the_exit_code(run: Run, args: list[str], code: int, says: str) -> None:
    result = run(*args)
    assert result.returncode == code
    assert result.stdout == ""
    assert re.fullmatch(rf"edgespec: .*{says}.*\n", result.stderr)


def test_hostile_arguments_reach_no_terminal(run: Run) -> None:
    for args in (("show", "\x1b[31m/x"), ("pull", "\x1b]52;c;eA==\x07.gguf"), ("\x1b[2J",), ("show", "/\n\x9b")):
        result = run(*args)
        assert result.returncode in (2, 3)
        assert result.stderr.count("\n") == 1
        assert all(character.isprintable() for character in result.stderr[:-1])


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Runs a command that raises."""

    def fail(error: BaseException) -> int:
        @click.command("list")
        def command() -> None:
            raise error

        monkeypatch.setattr("edgespec.cli.models.list_command", command)
        return main.run(["list"])

    return fail


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.GenerationError("no"), 1),
        (errors.UsageError("no"), 2),
        (errors.ContextFullError("no"), 2),
        (errors.ModelError("no"), 3),
        (errors.DownloadError("no"), 4),
        (errors.ChecksumError("no"), 5),
        (errors.OutOfMemoryError("no"), 6),
        (MemoryError(), 6),
        (errors.CancelledError("no"), 130),
        (KeyboardInterrupt(), 130),
        (click.FileError("x"), 2),
    ],
    ids=repr,
)
def test_every_error_has_its_code(
    broken: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    assert broken(error) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.strip().startswith("edgespec: ")


def test_a_bug_is_one_sentence_and_the_log_has_the_rest(
    broken: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert broken(ValueError("a bug\x1b[31m")) == 1
    err = capsys.readouterr().err
    log = home / "state" / "errors.log"
    assert re.fullmatch(r"edgespec: .*ValueError: a bug.*errors\.log\n", err)
    assert "\x1b" not in err
    assert "Traceback" in log.read_text()


def test_a_bug_with_debug_set_or_nowhere_to_log(
    broken: Callable[[BaseException], int],
    capsys: pytest.CaptureFixture[str],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (home / "state").write_text("a file in the way")
    assert broken(ValueError("a bug")) == 1
    assert "EDGESPEC_DEBUG=1" in capsys.readouterr().err
    monkeypatch.setenv("EDGESPEC_DEBUG", "1")
    assert broken(ValueError("a bug")) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_closed_pipe_is_quiet(home: Path) -> None:
    script = f"{sys.executable} -m edgespec list --json | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["int", "term", "hup"]
)
def test_signals(home: Path, number: signal.Signals, code: int) -> None:
    """Stopped while it waits for another process: a moment that lasts as long as the test needs."""
    store = Store(home / "models")
    command = [sys.executable, "-m", "edgespec", "pull", str(home / "tiny.gguf"), "--name", "d", "--keep-layers", "0"]
    with (
        store.staging(),
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as child,
    ):
        assert child.stderr is not None
        while "Waiting" not in child.stderr.readline():
            pass
        child.send_signal(number)
        assert child.wait(timeout=30) == code
        assert "Traceback" not in child.stderr.read()
