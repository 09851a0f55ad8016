"""`python -m benchmarks.gpu`: everything that only a machine with an NVIDIA GPU can tell, in one command.

Checks come before speeds, and what there is no time for is left out with a word. `--dry-run` goes the same ways on the
CPU, with tiny shapes, and treats the host's memory as if it were a device's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

from benchmarks.gpu.checks import check_exactness, check_failure, check_parity, check_rewind, show_environment
from benchmarks.gpu.common import Bench, Finding, NoTimeError, Section
from benchmarks.gpu.speed import time_default, time_large
from edgespec.errors import EdgespecError
from edgespec.runtime.cuda import inspect_cuda

LIMIT = 460.0
"""Seconds for all of it."""

SECTIONS = (
    Section("environment", show_environment, 10),
    Section("parity", check_parity, 90),
    Section("rewind", check_rewind, 20),
    Section("exactness", check_exactness, 45),
    Section("failure", check_failure, 25),
    Section("default", time_default, 90),
    Section("large", time_large, 170),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="What only a machine with an NVIDIA GPU can tell."
    )
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--model", default="smollm2-135m-cuda", help="a bundle, if it is here; else its shape alone")
    parser.add_argument("--limit", type=float, default=LIMIT, metavar="SECONDS")
    parser.add_argument("--only", choices=[section.name for section in SECTIONS], action="append")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="where the figures go as JSON")
    options = parser.parse_args()
    if not options.dry_run and (obstacle := inspect_cuda().obstacle) is not None:
        sys.exit(f"CUDA cannot be used: {obstacle}; --dry-run goes through all of this on the CPU")
    chosen = [section for section in SECTIONS if options.only is None or section.name in options.only]
    with tempfile.TemporaryDirectory(prefix="edgespec-gpu-") as scratch:
        bench = Bench("cpu" if options.dry_run else "cuda", options.dry_run, Path(scratch), options.model)
        findings = run(bench, chosen, options.limit, options.out)
    sys.exit(any(finding.good is False for finding in findings))


def run(bench: Bench, sections: Sequence[Section], limit: float, out: Path) -> list[Finding]:
    """Each section, as far as time allows; what is found is shown at once, and written after each section, should the
    next one not come back."""
    end = perf_counter() + limit
    findings: list[Finding] = []
    for section in sections:
        start = perf_counter()
        bench.deadline = min(start + section.seconds, end)
        for finding in attempt(bench, section, late=start >= end):
            finding.section = section.name
            print(finding.line, flush=True)
            findings.append(finding)
        findings.append(Finding("took", round(perf_counter() - start, 1), "s", section=section.name))
        print(findings[-1].line, flush=True)
        out.write_text(json.dumps([asdict(finding) for finding in findings], indent=1), encoding="utf-8")
    return findings


def attempt(bench: Bench, section: Section, *, late: bool) -> Iterator[Finding]:
    """What a section finds; what it found before it failed, and why it did."""
    if late:
        yield Finding("left out", "no time is left")
        return
    try:
        yield from section.run(bench)
    except NoTimeError:
        yield Finding("left out", "the rest, for want of time")
    except EdgespecError as error:
        yield Finding("failed", str(error), good=False)
    except Exception as error:
        # What a device can do to a process is not known beforehand, and the sections behind this one may still run.
        yield Finding("failed", f"{type(error).__name__}: {error}", good=False)


if __name__ == "__main__":
    main()
