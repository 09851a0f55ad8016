"""Lines from stdin; from a person at a terminal with editing, history and completion."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from edgespec.bundle import default_store
from edgespec.commands import SETTABLE, complete


class Lines:
    """The lines that are not empty, without the spaces around them. `editing`: with readline, where both ends are a
    terminal; what was typed is forgotten with the program."""

    def __init__(self, prompt: str, *, editing: bool) -> None:
        self._prompt = prompt
        self._readline = editing and sys.stdin.isatty() and sys.stdout.isatty() and _set_up_readline()

    def __iter__(self) -> Iterator[str]:
        while (line := self._next()) is not None:
            if text := line.strip():
                yield text

    def edit(self, text: str) -> str | None:
        """`text` as a person changes it; None where that cannot be done."""
        if not self._readline:
            return None
        import readline

        readline.set_startup_hook(lambda: readline.insert_text(text))
        try:
            return self._next()
        finally:
            readline.set_startup_hook(None)

    def _next(self) -> str | None:
        if self._readline:
            try:
                return input(self._prompt).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            except EOFError:
                line = b""
        else:
            sys.stderr.write(self._prompt)
            sys.stderr.flush()
            line = sys.stdin.buffer.readline()
        if not line:
            sys.stderr.write("\n")
            return None
        return line.decode("utf-8", "replace")


def _set_up_readline() -> bool:
    try:
        import readline
    except ImportError:
        return False
    here = default_store().names()
    arguments = {
        "model": here,
        "draft": ("none", "ngram", *here),
        "set": tuple(f"{name.rpartition('.')[2]} " for name in SETTABLE),
        "context": ("drop", "summarize"),
    }

    def completer(text: str, state: int) -> str | None:
        ways = complete(text, arguments)
        return ways[state] if state < len(ways) else None

    readline.set_completer_delims("")
    readline.set_completer(completer)
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")
    return True
