"""An answer as it comes, on stdout."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import FrameType

import click

from edgespec.chat.events import Answer, Event, TextDelta
from edgespec.chat.screen import printable
from edgespec.chat.session import Chat


def print_answer(chat: Chat, events: Iterator[Event], *, quiet: bool = False, by_line: bool = False) -> Answer:
    """Print the answer that `events` of `chat` bring, as it comes or line by line, unless `quiet`."""
    answer: Answer | None = None
    held = ""
    with interrupt_stops(chat):
        for event in events:
            match event:
                case TextDelta(text=text):
                    whole, mark, rest = (held + text).rpartition("\n") if by_line else (text, "", "")
                    held = rest
                    if not quiet:
                        _write(whole + mark)
                case Answer():
                    answer = event
                case _:
                    pass
    if not quiet:
        _write(held + "\n")
    if answer is None:
        raise RuntimeError("the conversation ended without an answer")
    return answer


@contextmanager
def interrupt_stops(chat: Chat) -> Generator[None]:
    """Within, the first Ctrl-C ends the answer after the pass it is in; the second leaves at once."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        chat.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _write(text: str) -> None:
    if text:
        click.echo(printable(text).encode(), nl=False)  # UTF-8 whatever the locale says
