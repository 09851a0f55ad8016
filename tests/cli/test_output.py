"""Progress on a stderr that is no terminal: a line per stage, then how far and how long."""

from __future__ import annotations

import pytest

from edgespec.cli.output import progress


def test_long_stages_say_how_long_they_will_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with progress() as show:
        for seconds, stage, fraction in [
            (0, "Fetching", 0.5),
            (2, "Fetching", 0.51),
            (10, "Fetching", 0.6),
            (100, "Fetching", 0.6),
            (600, "Fetching", 0.7),
            (601, "Converting", 0.0),
            (20_000, "Converting", 0.1),
            (20_001, "Converting", 1.0),
        ]:
            now = 1000.0 + seconds
            show(stage, fraction)
    assert capsys.readouterr().err.splitlines() == [
        "edgespec: Fetching",
        "edgespec: Fetching: 60%, 40 s left",
        "edgespec: Fetching: 60%, 7 min left",
        "edgespec: Fetching: 70%, 15 min left",
        "edgespec: Converting",
        "edgespec: Converting: 10%, 48.5 h left",
    ]
