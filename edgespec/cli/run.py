"""`edgespec run`: one answer on stdout, or a chat line by line."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from time import perf_counter
from typing import Any

import click

from edgespec.chat.events import Answer
from edgespec.chat.session import Chat, Settings
from edgespec.chat.summary import in_words, summarize
from edgespec.cli.answering import print_answer
from edgespec.cli.options import generation_flags, read_resources, read_settings
from edgespec.cli.output import note, progress
from edgespec.cli.remembering import history_flag
from edgespec.conversations.recorder import Recorder
from edgespec.engine import open_chat
from edgespec.errors import CancelledError, UsageError
from edgespec.places import conversations_directory, history_directory


@click.command("run")
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the answer and its figures.")
@click.option("--plain", is_flag=True, help="For screen readers: whole lines and words, nothing that moves.")
@generation_flags()
@history_flag
def run_command(model: str, prompt: str | None, as_json: bool, plain: bool, **flags: Any) -> None:
    """Answer PROMPT once; what comes on stdin precedes it. Without either, chat line by line."""
    settings, resources = read_settings(flags), read_resources(flags)
    question = _question(prompt)
    if question is None and as_json:
        raise UsageError("--json prints one answer: give a prompt, as an argument or on stdin.")

    def reopen(model: str, draft: str | None, settings: Settings) -> Chat:
        with progress(plain=plain) as show:
            return open_chat(
                model,
                draft=draft,
                settings=settings,
                resources=resources,
                history=history_directory() if flags["history"] else None,
                offline=flags["offline"],
                progress=show,
                notice=note,
            )

    start = perf_counter()
    chat = reopen(model, flags["draft"], settings)
    load_ms = (perf_counter() - start) * 1e3
    if question is None:
        from edgespec.cli.line_mode import LineMode  # not for one answer

        with closing(Recorder(conversations_directory() if flags["history"] else None, note)) as recorder:
            LineMode(chat, recorder, reopen, plain=plain).run()
        return
    answer = print_answer(chat, chat.send(question), quiet=as_json, by_line=plain)
    if as_json:
        click.echo(json.dumps(describe(chat, answer, load_ms)))
    else:
        note(in_words(answer) if plain else summarize(answer))
    if answer.finish_reason == "cancelled":
        raise CancelledError("stopped")


def describe(chat: Chat, answer: Answer, load_ms: float) -> dict[str, Any]:
    """The object that --json prints; the names of `timings` are llama.cpp's where it has them."""
    stats = answer.stats
    return {
        "model": chat.model,
        "draft": chat.draft,
        "text": answer.text,
        "tokens": list(answer.tokens),
        "prompt_tokens": answer.prompt_tokens,
        "finish_reason": answer.finish_reason,
        "device": chat.device,
        "exact": answer.exact,
        "timings": {
            "prompt_n": answer.prompt_n,
            "prompt_ms": answer.prompt_ms,
            "predicted_n": len(answer.tokens),
            "predicted_ms": answer.predicted_ms,
            "predicted_per_second": answer.tokens_per_second,
            "draft_n": stats.tested,
            "draft_n_accepted": stats.accepted,
            "ttft_ms": answer.ttft_ms,
            "load_ms": load_ms,
            "draft_ms": stats.draft_ms,
            "verify_ms": stats.verify_ms,
            "overhead_ms": answer.predicted_ms - stats.draft_ms - stats.verify_ms,
        },
        "speculation": {
            "rounds": stats.rounds,
            "plain_rounds": stats.plain_rounds,
            "proposed": stats.proposed,
            "tested": stats.tested,
            "accepted": stats.accepted,
            "corrections": stats.corrections,
            "bonus": stats.bonus,
            "tokens_per_round": stats.tokens_per_round,
            "per_position": [{"tested": p.tested, "accepted": p.accepted} for p in stats.per_position],
            "arms": dict(stats.arms),
        },
    }


def _question(prompt: str | None) -> str | None:
    """What stdin says, if it is not a terminal, then the prompt; None if there is neither."""
    said = "" if sys.stdin is None or sys.stdin.isatty() else _read_stdin()
    parts = [part for part in (said.rstrip("\n"), prompt) if part]
    if parts:
        return "\n".join(parts)
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("There is no prompt: give one as an argument or on stdin.")
    return None


def _read_stdin() -> str:
    """Bytes that are no UTF-8 become U+FFFD."""
    return sys.stdin.buffer.read().decode("utf-8", "replace")
