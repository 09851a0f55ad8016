"""Runs the app in a terminal, with the engine behind it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from edgespec.chat.screen import printable
from edgespec.config import Config, Value
from edgespec.conversations.recorder import Recorder
from edgespec.errors import UsageError
from edgespec.places import conversations_directory
from edgespec.tui.app import EdgespecApp
from edgespec.tui.engine import Engine, Load, Progress
from edgespec.tui.messages import Noticed
from edgespec.tui.setup import Setup, fits_here
from edgespec.tui.workers import set_apart


def run_app(config: Config, history: Path | None) -> None:
    """Chat as `config` says until the user quits; answers are kept in the directory `history`, for later drafts, and
    conversations in theirs; neither if it is None.

    Raises UsageError without a terminal, and the load's error if the user quits while there is no model.
    """
    terminal = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    if not terminal and "TEXTUAL_DRIVER" not in os.environ:  # a browser draws what another driver sends it
        raise UsageError("The chat needs an interactive terminal; use `edgespec run MODEL` here.")

    def opener(values: Mapping[str, Value]) -> Load:
        def load(progress: Progress) -> Engine:
            gc.freeze()
            gc.enable()
            from edgespec.configured import open_configured

            chat = open_configured(values, history=history, progress=progress, notice=notice)
            set_apart()
            return chat

        return load

    def notice(text: str) -> None:
        if not app.is_running or not app.post_message(Noticed(text)):
            sys.stderr.write(f"edgespec: {printable(text)}\n")

    values = dict(config.values)
    recorder = Recorder(conversations_directory() if history else None, notice)
    app = EdgespecApp(opener(values), recorder, Setup(opener, fits_here, values=values, path=config.path))
    try:
        asyncio.run(_until_told(app))
    finally:
        recorder.close()
    if app.return_code:  # Textual has already said why
        sys.exit(app.return_code)
    if app.chat is not None:
        app.chat.close()
    elif app.load_error is not None:
        raise app.load_error


async def _until_told(app: EdgespecApp) -> None:
    """Run the app until the user leaves it, the system ends it, or its terminal is gone: what was said is kept."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, app.exit, None, 128 + number)
    await app.run_async()
