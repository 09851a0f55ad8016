"""`bench`: one row per prompt, totals, and what is wrong in one sentence."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
FIGURES = {"plain_tps", "spec_tps", "speedup", "acceptance", "tokens_per_round", "same_text"}


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
    assert list(found) == ["environment", "rows", "summary"]
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
    assert all(set(row) == FIGURES | {"question_id", "category", "tokens"} for row in rows)
    assert all(row["same_text"] is True for row in rows)
    summary = found["summary"]
    assert set(summary) == {"overall", "categories"}
    assert list(summary["categories"]) == ["qa", "rag"]
    for figures in (summary["overall"], *summary["categories"].values()):
        assert set(figures) == FIGURES
        assert figures["speedup"] == pytest.approx(figures["spec_tps"] / figures["plain_tps"])
        assert figures["same_text"] == 1.0
    assert summary["categories"]["rag"]["speedup"] == pytest.approx(rows[2]["speedup"])


def test_table_and_limit(run: Run, prompts: str) -> None:
    result = run("bench", "tiny", "--prompts", prompts, "-n", "4", "--limit", "1", "--draft", "none")
    assert result.returncode == 0
    first, head, *lines, legend = result.stdout.splitlines()
    assert re.fullmatch(r"tiny with no draft, exact, \d+ threads", first)
    assert head.split() == ["plain", "spec", "speed-up", "accepted", "tok/round", "same", "text"]
    assert [line.split()[0] for line in lines] == ["qa", "rag", "all"]
    assert all(re.fullmatch(r"\w+ +[\d.]+ +[\d.]+ +[\d.]+x +– +1\.00 +100%", line) for line in lines)
    assert "tokens per second" in legend


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
