"""`edgespec config` as people who know git's expect it, and that the commands go by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from edgespec.cli import main
from edgespec.cli.main import edgespec

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def here(home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setattr("sys.stdin", None)

    def run(*args: str) -> tuple[int, str, str]:
        code = main.run(list(args))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


Here = Callable[..., tuple[int, str, str]]


def test_set_get_list_unset(here: Here, home: Path) -> None:
    assert here("config", "path") == (0, f"{home / 'config.toml'}\n", "")
    assert here("config", "list")[:2] == (0, "")
    assert here("config", "set", "temperature", "0.7") == (0, "", "")
    assert here("config", "set", "history", "off") == (0, "", "")
    assert here("config", "get", "temperature") == (0, "0.7\n", "")
    assert here("config", "list") == (0, "history=false\nsampling.temperature=0.7\n", "")
    assert here("config", "unset", "temperature") == (0, "", "")
    code, out, err = here("config", "get", "sampling.temperature")
    assert (code, out) == (1, "")
    assert "not set" in err
    assert here("config", "unset", "temperature")[0] == 1


def test_all_that_can_be_set_is_listed(here: Here) -> None:
    _, out, _ = here("config", "list", "--all")
    assert "# sampling.top-p: " in out
    assert "# keys.stop: " in out


@pytest.mark.parametrize("args", [("set", "threads", "0"), ("set", "nonsense", "1"), ("get", "nonsense")])
def test_what_cannot_be_is_one_sentence(here: Here, home: Path, args: tuple[str, ...]) -> None:
    code, out, err = here("config", *args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert not (home / "config.toml").exists()


def test_edit_begins_with_what_can_be_set_and_says_what_is_wrong(
    here: Here, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edit(filename: str) -> None:
        path = Path(filename)
        assert "# temperature = 0  # 0 is greedy." in path.read_text()
        path.write_text("threads = 'two'")

    monkeypatch.setattr(click, "edit", edit)
    code, _, err = here("config", "edit")
    assert code == 2
    assert "config.toml: threads cannot be 'two'" in err


def test_run_goes_by_the_config_unless_a_flag_was_typed(here: Here, home: Path) -> None:
    (home / "config.toml").write_text('draft = "none"\nmax-tokens = 3\n')
    configured = json.loads(here("run", "tiny", "hello", "--json")[1])
    assert (configured["draft"], len(configured["tokens"])) == (None, 3)
    typed = json.loads(here("run", "tiny", "hello", "--json", "-n", "5", "--draft", "ngram")[1])
    assert (typed["draft"], len(typed["tokens"])) == ("ngram", 5)


def test_bench_takes_the_draft_but_not_the_sampling(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "config.toml").write_text('model = "tiny"\ndraft = "none"\nmax-tokens = 3\n[sampling]\ntemperature = 1\n')
    seen: dict[str, object] = {}
    command = edgespec.get_command(click.Context(edgespec), "bench")
    assert command is not None
    monkeypatch.setattr(command, "callback", lambda **flags: seen.update(flags))
    assert main.run(["bench"]) == 0
    assert (seen["model"], seen["draft"], seen["temp"], seen["max_tokens"]) == ("tiny", "none", 0.0, 128)


def test_a_wrong_config_stops_what_goes_by_it_and_nothing_else(here: Here, home: Path) -> None:
    (home / "config.toml").write_text("[sampling]\ntemprature = 1\n")
    code, _, err = here("run", "tiny", "hello")
    assert code == 2
    assert "config.toml: there is no option sampling.temprature; did you mean sampling.temperature?" in err
    assert here("list")[0] == 0
    assert here("config", "unset", "sampling.temprature")[0] == 0
    assert here("run", "tiny", "hello", "-n", "2")[0] == 0
