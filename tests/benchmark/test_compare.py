"""What two runs may say about each other, and what they may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import run

from edgespec.benchmark.compare import compare, read_report
from edgespec.errors import UsageError

RNG = np.random.default_rng(7)
BASE = {"qa": RNG.uniform(1.0, 2.0, 12).tolist(), "rag": RNG.uniform(1.0, 2.0, 12).tolist()}


def scaled(qa: float, rag: float, noise: float = 0.02) -> dict[str, list[float]]:
    rng = np.random.default_rng(1)
    return {
        name: (np.array(BASE[name]) * factor * rng.lognormal(0.0, noise, 12)).tolist()
        for name, factor in (("qa", qa), ("rag", rag))
    }


def test_faster_slower_and_no_difference() -> None:
    found = compare(run(BASE), run(scaled(1.1, 0.9)))
    assert found.basis == "speed-up"
    assert {name: ratio.verdict for name, ratio in found.categories.items()} == {"qa": "faster", "rag": "slower"}
    qa = found.categories["qa"]
    assert qa.prompts == 12
    assert qa.ratio == qa.b / qa.a == pytest.approx(1.1, rel=0.02)
    assert qa.interval is not None
    assert qa.interval[0] < qa.ratio < qa.interval[1]
    assert found.overall.prompts == 24
    assert found.overall.verdict == "no difference"
    assert compare(run(BASE), run(scaled(1.0, 1.0, noise=0.1))).overall.verdict == "no difference"


def test_prompts_are_compared_with_themselves() -> None:
    """The prompts' speed-ups scatter between 1 and 2; what is 2 % faster on each of them is still seen."""
    found = compare(run(BASE), run(scaled(1.02, 1.02, noise=0.002)))
    assert found.overall.verdict == "faster"


def test_order_of_the_rows_does_not_matter() -> None:
    shuffled = run(scaled(1.1, 0.9))
    shuffled["rows"].reverse()
    assert compare(run(BASE), shuffled).overall == compare(run(BASE), run(scaled(1.1, 0.9))).overall


def test_a_busy_machine_does_not_count() -> None:
    found = compare(run(BASE), run(BASE, slower=1.5))
    assert found.overall.ratio == pytest.approx(1.0)
    assert found.overall.verdict == "no difference"


def test_where_plain_decoding_is_another_speeds_are_compared() -> None:
    found = compare(run(BASE, threads=2), run(BASE, threads=4, slower=0.5))
    assert (found.basis, found.differences) == ("speed", (("threads", 2, 4),))
    assert found.overall.ratio == pytest.approx(2.0)
    assert found.overall.verdict == "faster"


def test_one_prompt_is_no_evidence() -> None:
    found = compare(run({"qa": [1.0]}), run({"qa": [2.0]}))
    assert (found.overall.verdict, found.overall.interval) == ("one prompt", None)
    assert found.overall.ratio == pytest.approx(2.0)


def test_other_models_and_other_prompts_are_refused() -> None:
    with pytest.raises(UsageError, match="two models, tiny and other"):
        compare(run(BASE), run(BASE, model="other"))
    for other in (run(BASE, prompts="f" * 16), run({"qa": BASE["qa"]})):
        with pytest.raises(UsageError, match="different prompts; give both the same --prompts"):
            compare(run(BASE), other)


def test_a_file_goes_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(run(BASE)), encoding="utf-8")
    assert read_report(path) == json.loads(json.dumps(run(BASE)))


def broken(change: str) -> Any:
    report: Any = json.loads(json.dumps(run(BASE)))
    match change:
        case "no rows":
            report["rows"] = []
        case "a speed of nothing":
            report["rows"][0]["spec_tps"] = None
        case "a speed of zero":
            report["rows"][0]["plain_tps"] = 0
        case "an infinite speed":
            report["rows"][0]["plain_tps"] = float("inf")
        case "a nameless row":
            del report["rows"][0]["question_id"]
        case "a row that is no object":
            report["rows"][0] = 3
        case "no fingerprint":
            del report["environment"]["prompts"]
        case _:
            report = [report]
    return report


@pytest.mark.parametrize(
    "change",
    [
        *("no rows", "a speed of nothing", "a speed of zero", "an infinite speed", "a nameless row"),
        *("a row that is no object", "no fingerprint", "a list"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(broken(change)), encoding="utf-8")
    with pytest.raises(UsageError, match=r"a\.json is not what this version's `bench --json` prints"):
        read_report(path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"plain \xff text")
    (tmp_path / "deep").write_text("[" * 100_000)
    for path in (tmp_path / "missing", tmp_path, tmp_path / "text", tmp_path / "deep"):
        with pytest.raises(UsageError, match=r"cannot be read .*--compare takes what `bench --json` printed"):
            read_report(path)
