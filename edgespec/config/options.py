"""The options that config.toml may have, and what they may be."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgespec.config.keymap import DEFAULT_KEYS, check_keys
from edgespec.decoding import ranges
from edgespec.decoding.ranges import Range
from edgespec.errors import UsageError

Value = str | int | float | bool

_KINDS = {str: "a text in quotes", int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class Option:
    """One option. name: as in the file, `table.key`. usual: what holds without it, in words. flag: the parameter of the
    commands that overrides it. choices: all that it may be, if that is a short list."""

    name: str
    kind: type[str] | type[int] | type[float] | type[bool]
    help: str
    usual: str
    range: Range | None = None
    choices: tuple[str, ...] = ()
    flag: str | None = None

    def check(self, value: object) -> Value:
        """`value` if it can be the option's. Raises: UsageError."""
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, self.kind) or (isinstance(value, bool) and self.kind is not bool):
            raise UsageError(f"{self.name} cannot be {value!r}; it must be {_KINDS[self.kind]}.")
        if self.range is not None and isinstance(value, int | float):
            self.range.require(self.name, value)
        if isinstance(value, str):
            return self._check_text(value)
        return value

    def _check_text(self, value: str) -> str:
        choices = theme_names() if self.name == "screen.theme" else self.choices
        if choices and value not in choices:
            raise UsageError(f"{self.name} cannot be {value!r}; {_closest(value, choices)}")
        if self.name.startswith("keys."):
            return check_keys(self.name.removeprefix("keys."), value)
        if not value.strip():
            raise UsageError(f"{self.name} cannot be empty; `edgespec config unset {self.name}` takes it out.")
        return value

    def parse(self, text: str) -> Value:
        """What somebody means who types `text`. Raises: UsageError."""
        value: object = text
        if self.kind is bool:
            value = {"true": True, "yes": True, "on": True, "1": True}.get(text.lower())
            value = False if text.lower() in ("false", "no", "off", "0") else value
        elif self.kind is not str:
            try:
                value = self.kind(text)
            except ValueError:
                value = None
        if value is None:
            raise UsageError(f"{self.name} cannot be {text!r}; it must be {_KINDS[self.kind]}.")
        return self.check(value)


def theme_names() -> tuple[str, ...]:
    """The names of the themes that the chat can have."""
    from textual.theme import BUILTIN_THEMES  # slow to import, and seldom needed

    return tuple(sorted(BUILTIN_THEMES))


def _table() -> dict[str, Option]:
    found = (
        Option("model", str, "The model to chat with.", "the catalog's default", flag="model"),
        Option("draft", str, "What proposes tokens: a model's name, ngram or none.", "as tuned", flag="draft"),
        Option("system", str, "The system message.", "none", flag="system"),
        Option("max-tokens", int, "Where an answer ends.", "1024", range=ranges.MAX_TOKENS, flag="max_tokens"),
        Option(
            "context", int, "Context length in tokens.", "the model's, at most 8192", ranges.CONTEXT, flag="ctx_size"
        ),
        Option("threads", int, "Threads to compute with.", "as tuned", range=ranges.THREADS, flag="threads"),
        Option("device", str, "What computes.", "auto", choices=("auto", "cpu", "cuda"), flag="device"),
        Option(
            "draft-device",
            str,
            "What a draft model computes on.",
            "cpu if device is, else auto",
            choices=("auto", "cpu", "cuda"),
            flag="draft_device",
        ),
        Option("history", bool, "Keep what is said, on this machine.", "true", flag="history"),
        Option("sampling.temperature", float, "0 is greedy.", "0", range=ranges.TEMPERATURE, flag="temp"),
        Option("sampling.top-k", int, "Keep so many of the likeliest tokens.", "0: all", ranges.TOP_K, flag="top_k"),
        Option("sampling.top-p", float, "Keep the likeliest with this probability.", "1", ranges.TOP_P, flag="top_p"),
        Option("sampling.min-p", float, "Keep what is this likely.", "0", ranges.MIN_P, flag="min_p"),
        Option(
            "sampling.repeat-penalty",
            float,
            "Above 1, recent tokens are unlikelier.",
            "1",
            range=ranges.REPEAT_PENALTY,
            flag="repeat_penalty",
        ),
        Option("screen.theme", str, "Colours of the chat.", "textual-dark"),
        Option("screen.ascii", bool, "Draw with ASCII characters only.", "as the terminal can"),
        *(Option(f"keys.{action}", str, "Keys in the chat.", keys) for action, keys in DEFAULT_KEYS.items()),
    )
    return {option.name: option for option in found}


OPTIONS: Mapping[str, Option] = MappingProxyType(_table())


def find_option(name: str) -> Option:
    """The option of that name; the last part of it is enough where it is clear, and `_` is as good as `-`.

    Raises: UsageError that names the closest.
    """
    wanted = name.strip().lower().replace("_", "-")
    if wanted in OPTIONS:
        return OPTIONS[wanted]
    last = [option for known, option in OPTIONS.items() if known.rpartition(".")[2] == wanted]
    if len(last) == 1:
        return last[0]
    raise UsageError(f"there is no option {name}; {_closest(wanted, tuple(OPTIONS))}")


def _closest(wanted: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(wanted, known, n=1)
    if not close:  # the table in front of the name is easily forgotten
        close = [
            name
            for name in known
            if name.rpartition(".")[2] in difflib.get_close_matches(wanted, [name.rpartition(".")[2]])
        ]
    return f"did you mean {close[0]}?" if close else f"it is one of {', '.join(known)}."
