"""`edgespec bench`: is speculation worth it on this machine?"""

from __future__ import annotations

import dataclasses
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from edgespec.benchmark import Row, Summary, measure, read_prompts, summarize
from edgespec.cli.options import generation_flags, read_resources, read_settings
from edgespec.cli.output import clean, note, progress
from edgespec.engine import open_chat
from edgespec.runtime.session import runtime_version, use_threads

DEFAULT_TOKENS = 128


@click.command("bench")
@click.argument("model", required=False)
@click.option(
    "--prompts", type=click.Path(path_type=Path), metavar="FILE.jsonl", help="Prompts in Spec-Bench's format."
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N prompts of each category.")
@click.option("--repeat", type=click.IntRange(1), default=1, show_default=True, help="Runs of each prompt.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@generation_flags(max_tokens=DEFAULT_TOKENS)
def bench_command(
    model: str | None, prompts: Path | None, limit: int | None, repeat: int, as_json: bool, **flags: Any
) -> None:
    """Compare speculative with plain decoding, prompt by prompt, in turn."""
    settings = read_settings(flags)
    resources = read_resources(flags)
    chosen = read_prompts(prompts, limit) if prompts else read_prompts(limit=limit)
    with progress() as show:
        chat = open_chat(
            model,
            draft=flags["draft"],
            settings=settings,
            resources=resources,
            offline=flags["offline"],
            progress=show,
            notice=note,
        )
        environment = _environment(chat.model, chat.draft, chat.device, chat.exact, chat.settings.longest_draft)
        rows = list(measure(chat, chosen, repeat=repeat, progress=lambda done: show("Comparing", done)))
    if left_out := len(chosen) - len(rows):
        note(f"{left_out} of {len(chosen)} prompts do not fit the context and were left out; see --ctx-size")
    if as_json:
        click.echo(json.dumps(_report(environment, rows)))
    else:
        _print_table(environment, rows)


def _environment(model: str, draft: str | None, device: str, exact: bool, draft_max: int) -> dict[str, Any]:
    return {
        "edgespec": version("edgespec"),
        "onnxruntime": runtime_version(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "model": model,
        "draft": draft,
        "draft_max": draft_max,
        "exact": exact,
        "device": device,
        "threads": use_threads(None),
    }


def _report(environment: dict[str, Any], rows: list[Row]) -> dict[str, Any]:
    return {
        "environment": environment,
        "rows": [_row(row) for row in rows],
        "summary": {
            "overall": dataclasses.asdict(summarize(rows)),
            "categories": {name: dataclasses.asdict(summary) for name, summary in _categories(rows).items()},
        },
    }


def _row(row: Row) -> dict[str, Any]:
    summary = dataclasses.asdict(summarize([row]))
    return {
        "question_id": row.question_id,
        "category": row.category,
        "tokens": row.tokens,
        **summary,
        "same_text": row.same_text,
    }


def _categories(rows: list[Row]) -> dict[str, Summary]:
    names = dict.fromkeys(row.category for row in rows)
    return {name: summarize(row for row in rows if row.category == name) for name in names}


def _print_table(environment: dict[str, Any], rows: list[Row]) -> None:
    mode = "exact" if environment["exact"] else "not exact"
    click.echo(
        f"{environment['model']} with {environment['draft'] or 'no draft'}, {mode}, {environment['threads']} threads"
    )
    click.echo(f"{'':20}{'plain':>9}{'spec':>9}{'speed-up':>10}{'accepted':>10}{'tok/round':>11}{'same text':>11}")
    lines = _categories(rows)
    for name, s in {**lines, "all": summarize(rows)}.items():
        accepted = "–" if s.acceptance is None else f"{s.acceptance:.0%}"
        per_round = "–" if s.tokens_per_round is None else f"{s.tokens_per_round:.2f}"
        click.echo(
            f"{clean(name):20}{s.plain_tps:9.1f}{s.spec_tps:9.1f}{s.speedup:9.2f}x{accepted:>10}{per_round:>11}{s.same_text:>11.0%}"
        )
    click.echo("plain, spec: tokens per second of decoding; same text: share of prompts")
