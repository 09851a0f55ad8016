"""The picture: what it says, that it is one, and what happens where it cannot be drawn."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from runs import run

from edgespec.benchmark.plots import draw_report, require_plots
from edgespec.errors import UsageError

SPEEDUPS = {"qa": [1.1, 1.2, 1.4], "math_reasoning": [0.9]}
TITLES = {
    "Speed-up over plain decoding, with 95 % intervals",
    "Acceptance by position in the draft",
    "Cost of a pass, V(rows), as measured at the start",
    "Arm chosen over an answer",
}


def drawn_texts(path: Path) -> set[str]:
    """matplotlib leaves each text as a comment beside its glyphs."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    root = ElementTree.parse(path, parser).getroot()
    return {(node.text or "").strip() for node in root.iter() if callable(node.tag)}


def test_everything_is_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "out.svg"
    draw_report(run(SPEEDUPS), path)
    texts = drawn_texts(path)
    assert texts >= TITLES | {"qa", "math_reasoning", "all", "plain", "ngram", "ngram (480 tested)"}
    assert "context 128: one row 6.0 ms" in texts
    assert any(text.startswith("tiny with ngram, temperature 0, exact mode") for text in texts)


def test_a_run_without_a_draft(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = run(SPEEDUPS, costs=None, draft=None)
    del report["arms"]["ngram"], report["tokens_by_arm"]["tokens"]["ngram"]
    draw_report(report, tmp_path / "out.svg")
    assert drawn_texts(tmp_path / "out.svg") >= {"nothing was proposed", "not measured without a draft", "plain"}


def test_the_same_run_gives_the_same_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        draw_report(run(SPEEDUPS), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_report(run(SPEEDUPS), tmp_path / "out.PNG")
    assert (tmp_path / "out.PNG").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"out\.pdf has to end in \.svg or \.png"):
        require_plots(Path("out.pdf"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"needs matplotlib; install it with `pip install 'edgespec\[plot\]'`"):
        require_plots(Path("out.svg"))
