"""`python -m benchmarks.gpu`: everything that only a machine with an NVIDIA GPU can tell, in one command.

Checks come before speeds, and what there is no time for is left out with a word. Each section has a process of its own,
since after most errors of CUDA a process can compute nothing more. `--dry-run` goes the same ways on the CPU, with tiny
shapes, and treats the host's memory as if it were a device's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

from benchmarks.gpu.checks import check_exactness, check_failure, check_parity, check_rewind, show_environment
from benchmarks.gpu.common import Bench, Finding, Section
from benchmarks.gpu.heads import check_heads
from benchmarks.gpu.peer import time_peer
from benchmarks.gpu.sections import run_section
from benchmarks.gpu.speed import time_default, time_large
from edgespec.runtime.cuda import inspect_cuda

LIMIT = 450.0
"""Seconds for all of it."""
_START = 30.0
"""Seconds that a process may take beyond its section: to start, and for what cannot be interrupted."""
_ROOT = Path(__file__).parents[2]

SECTIONS = (
    Section("environment", show_environment, 10),
    Section("parity", check_parity, 70),
    Section("rewind", check_rewind, 15),
    Section("exactness", check_exactness, 40),
    Section("heads", check_heads, 20),
    Section("failure", check_failure, 20),
    Section("default", time_default, 75),
    Section("large", time_large, 150),
    Section("genai", time_peer, 45),
)


def main() -> None:
    names = [section.name for section in SECTIONS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="What only a machine with an NVIDIA GPU can tell."
    )
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--model", default="smollm2-135m-cuda", help="a bundle, if it is here; else its shape alone")
    parser.add_argument("--genai", type=Path, metavar="PYTHON", help="of an environment with onnxruntime-genai-cuda")
    parser.add_argument("--limit", type=float, default=LIMIT, metavar="SECONDS")
    parser.add_argument("--only", choices=names, action="append")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="where the figures go as JSON")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)  # the folder that the sections share
    options = parser.parse_args()
    if not options.dry_run and (obstacle := inspect_cuda().obstacle) is not None:
        sys.exit(f"CUDA cannot be used: {obstacle}; --dry-run goes through all of this on the CPU")
    if options.inside is not None:
        device = "cpu" if options.dry_run else "cuda"
        bench = Bench(device, options.dry_run, options.inside, options.model, options.genai)
        section = next(section for section in SECTIONS if section.name in options.only)
        run_section(bench, section, options.limit, options.out)
        return
    chosen = [section for section in SECTIONS if options.only is None or section.name in options.only]
    common = ["--model", options.model, *(["--dry-run"] if options.dry_run else [])]
    common += ["--genai", str(options.genai.absolute())] if options.genai else []
    findings = run(chosen, common, options.limit, options.out)
    sys.exit(any(finding.good is False for finding in findings))


def run(sections: Sequence[Section], arguments: Sequence[str], limit: float, out: Path) -> list[Finding]:
    """Each section, as far as time allows; what is found is shown at once, and written after each section."""
    end = perf_counter() + limit
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="edgespec-gpu-") as scratch:
        for section in sections:
            seconds = min(section.seconds, end - perf_counter())
            if seconds <= 0.0:
                left_out = Finding("left out", "no time is left", section=section.name)
                print(left_out.line, flush=True)
                findings.append(left_out)
            else:
                findings += _in_a_process(section, arguments, seconds, Path(scratch))
            out.write_text(json.dumps([asdict(finding) for finding in findings], indent=1), encoding="utf-8")
    return findings


def _in_a_process(section: Section, arguments: Sequence[str], seconds: float, scratch: Path) -> list[Finding]:
    """What a section finds, and why its process failed if it did."""
    found = scratch / f"{section.name}.json"
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments, "--only", section.name, "--limit", str(seconds)]
    process = subprocess.Popen([*command, "--inside", str(scratch), "--out", str(found)], cwd=_ROOT)
    try:
        code = process.wait(seconds + _START)
        failure = f"its process ended with {code}" if code else None
    except subprocess.TimeoutExpired:
        failure = f"it did not come back within {seconds + _START:.0f} s"
    finally:
        process.kill()
        process.wait()
    findings = [Finding(**entry) for entry in json.loads(found.read_text("utf-8"))] if found.exists() else []
    if failure is not None:
        findings.append(Finding("failed", failure, good=False, section=section.name))
        print(findings[-1].line, flush=True)
    return findings


if __name__ == "__main__":
    main()
