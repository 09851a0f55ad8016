"""What the command line says on stderr: progress and errors. stdout belongs to the commands' data, such as tables."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Generator, Sequence

import click

_SECONDS_BETWEEN_LINES = 5.0

Progress = Callable[[str, float], None]


def clean(text: str) -> str:
    """`text` with every character that could steer a terminal shown as U+FFFD; newlines too."""
    return "".join(character if character.isprintable() else "�" for character in text)


def note(text: str) -> None:
    """Say a line on stderr; a stderr that is gone hears nothing."""
    with contextlib.suppress(OSError, ValueError):
        click.echo(f"edgespec: {clean(text)}", err=True)


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows in columns on stdout."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@contextlib.contextmanager
def progress(*, plain: bool = False) -> Generator[Progress]:
    """A callback that shows (stage, fraction) on stderr: as a bar on a terminal unless `plain`, else as plain lines."""
    if not plain and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bar() as show:
            yield show
    else:
        yield _lines()


@contextlib.contextmanager
def _bar() -> Generator[Progress]:
    # rich takes 50 ms to import.
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    remaining = TimeRemainingColumn(elapsed_when_finished=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), remaining
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        stages: list[str] = []

        def show(stage: str, fraction: float) -> None:
            if stages[-1:] != [stage]:
                stages.append(stage)
                bar.reset(task, description=clean(stage))
            bar.update(task, completed=fraction)

        yield show


def _lines() -> Progress:
    """A line when a stage begins, and how far it is and how long it will take now and then."""
    stages: list[str] = []
    began, done, spoke = 0.0, 0.0, 0.0

    def show(stage: str, fraction: float) -> None:
        nonlocal began, done, spoke
        now = time.monotonic()
        if stages[-1:] != [stage]:
            stages.append(stage)
            began, done = now, fraction
            note(stage)
        elif now - spoke >= _SECONDS_BETWEEN_LINES:
            left = f", {_duration((now - began) * (1 - fraction) / (fraction - done))} left" if fraction > done else ""
            note(f"{stage}: {fraction:.0%}{left}")
        else:
            return
        spoke = now

    return show


def _duration(seconds: float) -> str:
    """Roughly, for people: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
