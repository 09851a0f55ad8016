"""One section: what it finds, until it is done, has no time left, or fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

from benchmarks.gpu.common import Bench, Finding, NoTimeError, Section
from edgespec.errors import EdgespecError


def run_section(bench: Bench, section: Section, seconds: float, out: Path) -> list[Finding]:
    """Each finding is shown and written at once: a device can take the process with it."""
    start = perf_counter()
    bench.deadline = start + seconds
    findings: list[Finding] = []

    def keep(finding: Finding) -> None:
        finding.section = section.name
        print(finding.line, flush=True)
        findings.append(finding)
        out.write_text(json.dumps([asdict(each) for each in findings]), encoding="utf-8")

    for finding in attempt(bench, section):
        keep(finding)
    keep(Finding("took", round(perf_counter() - start, 1), "s"))
    return findings


def attempt(bench: Bench, section: Section) -> Iterator[Finding]:
    """What a section finds; what it found before it failed, and why it did."""
    try:
        yield from section.run(bench)
    except NoTimeError:
        yield Finding("left out", "the rest, for want of time")
    except EdgespecError as error:
        yield Finding("failed", str(error), good=False)
    except Exception as error:
        # What a device can do to a process is not known beforehand: whatever it is, it belongs into the table.
        yield Finding("failed", f"{type(error).__name__}: {error}", good=False)
