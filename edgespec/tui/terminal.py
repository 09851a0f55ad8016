"""What the terminal can do, and what it is spared."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from time import thread_time

from rich.cells import cell_len

_FRAME, _FIGURES, _REMOTE = 0.1, 0.5, 2.5
"""Seconds between two paintings of what streams, at least, and of figures; over SSH so many times as long."""

_LONGEST_FRAME = 0.3
_SHARE = 0.025
"""Of a processor's time that may go into painting while a model answers: it is taken from the model."""


def over_ssh(environment: Mapping[str, str] = os.environ) -> bool:
    return bool(environment.get("SSH_CONNECTION"))


def frame_seconds() -> float:
    """How often more of an answer is shown at most."""
    return _FRAME * (_REMOTE if over_ssh() else 1)


class Pace:
    """How often the thread that made it may paint: less often where a painting takes longer, as on a large screen or a
    slow machine."""

    def __init__(self) -> None:
        self._spent, self._each = thread_time(), 0.0

    def wait(self) -> float:
        """Seconds until the next painting. To be asked once after each."""
        before, self._spent = self._spent, thread_time()
        self._each += (self._spent - before - self._each) / 4
        return max(frame_seconds(), min(self._each / _SHARE, _LONGEST_FRAME))


def figure_seconds() -> float:
    """How often figures are written anew."""
    return _FIGURES * (_REMOTE if over_ssh() else 1)


def needs_ascii(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the locale names a character set that is not UTF-8. One that names none, or none at all, is not asked."""
    locale = next((environment[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if environment.get(name)), "")
    _, _, charset = locale.partition(".")
    return bool(charset) and "utf" not in charset.lower()


def _glyphs() -> dict[str, str]:
    groups = {
        "-": "─╌┄┈╴╶–—‐‑−▔▀┬┴",
        "=": "━═╸╺",
        "|": "│┃║▌▐▏▎▍▊▋▉╵╷╹╻┆┊",
        "+": "╭╮╰╯┌┐└┘├┤┼┏┓┗┛┣┫╋▛▜▙▟▗▖▝▘┳┻▆",
        "#": "█▓■▪▇",
        ":": "▃▒",
        ".": "·…▂░",
        "_": "▁▄▅",
        "*": "•●★",
        "o": "◦○",
        ">": "❯▸▶→»›",
        "<": "←«‹⏎↵",
        "^": "↑▲△",
        "v": "↓▼▾✓✔",
        "x": "×✗✘",
        '"': "“”„",
        "'": "‘’‚´",
        " ": "\u00a0\u2009\u202f",
    }
    return {glyph: sign for sign, glyphs in groups.items() for glyph in glyphs}


_SIGNS = _glyphs()


def to_ascii(text: str) -> str:
    """`text` as wide as it was, in ASCII: lines and marks by what looks like them, letters without their accents, all
    else by question marks."""
    return text if text.isascii() else "".join(map(_to_ascii, text))


@lru_cache(maxsize=4096)
def _to_ascii(character: str) -> str:
    if character.isascii():
        return character
    width = cell_len(character)
    plain = unicodedata.normalize("NFKD", character)[:1]
    sign = _SIGNS.get(character) or (plain if plain.isascii() else "?")
    return sign * width
