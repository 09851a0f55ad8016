"""`bench`: one row per prompt, totals, and what is wrong in one sentence."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgespec.benchmark.self_test import SameBytes, SameDistribution, SelfTest
from edgespec.cli import bench, main

Run = Callable[..., "subprocess.CompletedProcess[str]"]
FIGURES = {"plain_tps", "spec_tps", "speedup", "acceptance", "tokens_per_round", "same_text"}
IDENTITY = {"question_id", "category", "tokens", "plain_tokens"}
ENERGY = {"plain_joules_per_token", "spec_joules_per_token"}
"""Only where the machine tells."""


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.jsonl"
    entries = [("a", "qa", ["hello there"]), ("b", "qa", ["the cat"]), ("c", "rag", ["the dog", "and then"])]
    lines = [json.dumps({"question_id": i, "category": c, "turns": t}) for i, c, t in entries]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_json(run: Run, prompts: str) -> None:
    result = run("bench", "tiny", "--prompts", prompts, "-n", "8", "--draft-max", "3", "--json", "--repeat", "2")
    assert result.returncode == 0
    assert "edgespec: Comparing" in result.stderr
    found = json.loads(result.stdout)
    assert list(found) == ["environment", "rows", "summary", "arms", "tokens_by_arm", "costs"]
    environment = found["environment"]
    assert (environment["model"], environment["draft"], environment["draft_max"]) == ("tiny", "ngram", 3)
    assert (environment["device"], environment["exact"]) == ("cpu", True)
    assert environment["threads"] >= 1
    rows = found["rows"]
    assert [(row["question_id"], row["category"], row["tokens"]) for row in rows] == [
        ("a", "qa", 16),
        ("b", "qa", 16),
        ("c", "rag", 32),
    ]
    assert all(set(row) - ENERGY == FIGURES | IDENTITY for row in rows)
    assert all(row["same_text"] is True for row in rows)
    summary = found["summary"]
    assert set(summary) == {"overall", "categories"}
    assert list(summary["categories"]) == ["qa", "rag"]
    for figures in (summary["overall"], *summary["categories"].values()):
        assert set(figures) - ENERGY == FIGURES | {"speedup_interval"}
        assert figures["speedup"] == pytest.approx(figures["spec_tps"] / figures["plain_tps"])
        assert figures["same_text"] == 1.0
    assert summary["categories"]["rag"]["speedup"] == pytest.approx(rows[2]["speedup"])
    assert summary["categories"]["rag"]["speedup_interval"] is None, "one prompt"
    low, high = summary["overall"]["speedup_interval"]
    assert low <= summary["overall"]["speedup"] <= high
    assert sum(arm["tokens"] for arm in found["arms"].values()) == sum(row["tokens"] for row in rows)
    assert {name: sum(tokens) for name, tokens in found["tokens_by_arm"]["tokens"].items()} == {
        name: arm["tokens"] for name, arm in found["arms"].items()
    }
    assert len(found["costs"]["passes"][0]) == 9


def test_table_and_limit(run: Run, prompts: str) -> None:
    result = run("bench", "tiny", "--prompts", prompts, "-n", "4", "--limit", "1", "--draft", "none")
    assert result.returncode == 0
    first, head, *lines, legend = result.stdout.splitlines()
    assert re.fullmatch(r"tiny with no draft, exact, \d+ threads", first)
    assert head.split()[:9] == ["plain", "spec", "speed-up", "95", "%", "accepted", "tok/round", "same", "text"]
    assert [line.split()[0] for line in lines] == ["qa", "rag", "all"]
    assert all(re.match(r"\w+ +[\d.]+ +[\d.]+ +[\d.]+x +\S+ +– +1\.00 +100%", line) for line in lines)
    assert [line.split()[4] for line in lines[:2]] == ["–", "–"]
    assert re.fullmatch(r"[\d.]+–[\d.]+", lines[2].split()[4])
    assert "tokens per second" in legend


def test_rows_as_csv_and_the_picture(run: Run, prompts: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    table, picture = tmp_path / "out.csv", tmp_path / "out.svg"
    result = run(
        "bench", "tiny", "--prompts", prompts, "-n", "8", "--json", "--csv", str(table), "--plot", str(picture)
    )
    assert result.returncode == 0
    with table.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    rows = json.loads(result.stdout)["rows"]
    said = [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    assert said == lines
    assert picture.read_text(encoding="utf-8").rstrip().endswith("</svg>")


@pytest.mark.slow
def test_two_runs_are_compared(run: Run, prompts: str, tmp_path: Path) -> None:
    a, b, c = (str(tmp_path / name) for name in ("a.json", "b.json", "c.json"))
    for path, *flags in ((a, "--draft", "none"), (b, "-n", "6"), (c, "--limit", "1")):
        result = run("bench", "tiny", "--prompts", prompts, "-n", "4", "--json", *flags)
        Path(path).write_text(result.stdout, encoding="utf-8")
    result = run("bench", "--compare", a, b)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "compared: speed-up over plain decoding"
    assert "draft: – | ngram" in lines
    assert "max_tokens: 4 | 6" in lines
    assert [line.split()[0] for line in lines[-4:-1]] == ["qa", "rag", "all"]
    assert re.match(r"B is (faster|slower) than A, by|no difference between A and B", lines[-1])
    found = json.loads(run("bench", "--compare", a, b, "--json").stdout)
    assert found["basis"] == "speed-up"
    assert found["differences"]["draft"] == [None, "ngram"]
    assert list(found["categories"]) == ["qa", "rag"]
    assert found["categories"]["rag"]["verdict"] == "one prompt"
    assert found["overall"]["verdict"] in ("faster", "slower", "no difference")
    refused = run("bench", "--compare", a, c)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "different prompts" in refused.stderr


def test_a_lossless_pair_is_told_so(run: Run, home: Path) -> None:
    result = run("bench", "tiny", "--self-test", "--top-k", "6", "--seed", "3")
    assert result.returncode == 0, result.stderr
    first, *lines = result.stdout.splitlines()
    assert first == "tiny with ngram, seed 3"
    assert lines[-1] == "lossless: nothing here tells speculative from plain decoding"
    assert "NO" not in result.stdout.replace("NO where", "")
    assert "edgespec: Testing" in result.stderr


def test_there_must_be_a_draft_to_test(run: Run) -> None:
    result = run("bench", "tiny", "--self-test", "--draft", "none")
    assert (result.returncode, result.stdout) == (2, "")
    assert "leave out --draft none" in result.stderr


@pytest.mark.parametrize("as_json", [True, False])
def test_a_lossy_pair_is_told_so(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    same = SameBytes("ngram", 4, 9, 3, prompt="7")
    found = SelfTest((same,), (SameDistribution("ngram", 9, 3, 0.0001), SameDistribution("controller", 9, 3, 0.5)))
    monkeypatch.setattr(bench, "self_test", lambda *_, **__: found)
    assert main.run(["bench", "tiny", "--self-test", *(["--json"] if as_json else [])]) == 1
    out, err = capsys.readouterr()
    assert "ngram changes what tiny says here; use --draft none" in err
    if as_json:
        assert json.loads(out)["lossless"] is False
        assert json.loads(out)["same_bytes"][0]["prompt"] == "7"
    else:
        assert "NO (prompt 7)" in out
        assert re.search(r"^ngram +9 +3 +0\.0001 +NO$", out, re.MULTILINE)
        assert re.search(r"^controller +9 +3 +0\.5000 +yes$", out, re.MULTILINE)
        assert out.splitlines()[-1] == "NOT lossless: see NO above"


def test_prompts_that_do_not_fit_are_left_out_and_counted(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    entries = [{"question_id": i, "category": "\x9b31mqa", "turns": ["word " * n]} for i, n in ((1, 1), (2, 300))]
    path.write_text("\n".join(map(json.dumps, entries)))
    result = run("bench", "tiny", "--prompts", str(path), "-n", "4")
    assert result.returncode == 0
    assert "1 of 2 prompts do not fit the context" in result.stderr
    assert result.stdout.replace("\n", "").isprintable()
    path.write_text(json.dumps(entries[1]))
    result = run("bench", "tiny", "--prompts", str(path), "-n", "4", "--json")
    assert (result.returncode, result.stdout) == (2, "")
    assert "No prompt fits the context: raise --ctx-size" in result.stderr


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["tiny", "--prompts", "nowhere.jsonl"], 2, "nowhere.jsonl cannot be read"),
        (["tiny", "--limit", "0"], 2, "--limit"),
        (["tiny", "--repeat", "0"], 2, "--repeat"),
        (["tiny", "-n", "0"], 2, "number of tokens cannot be 0"),
        (["tiny", "--csv", "nowhere/out.csv"], 2, "nowhere/out.csv cannot be written"),
        (["tiny", "--plot", "."], 2, "cannot be written"),
        (["tiny", "--plot", "out.pdf"], 2, "out.pdf has to end in .svg or .png"),
        (["tiny", "--compare", "a.json", "b.json"], 2, "a.json cannot be read"),
        (["tiny", "--self-test", "--csv", "out.csv"], 2, "leave out --csv"),
        (["tinny"], 3, "did you mean tiny"),
    ],
)
def test_one_sentence_and_the_exit_code(run: Run, args: list[str], code: int, says: str) -> None:
    result = run("bench", *args)
    assert (result.returncode, result.stdout) == (code, "")
    assert re.fullmatch(rf"edgespec: .*{re.escape(says)}.*\n", result.stderr)


def test_the_default_model_is_not_fetched_offline(run: Run) -> None:
    result = run("bench", "--offline")
    assert (result.returncode, result.stdout) == (3, "")
    assert "`edgespec pull smollm2-135m` fetches it" in result.stderr
