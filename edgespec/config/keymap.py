"""Which keys do what in the chat, and what they may be changed to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from edgespec.errors import UsageError

DEFAULT_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "send": "enter",
        "new-line": "shift+enter,ctrl+j",
        "stop": "escape",
        "new-chat": "ctrl+n",
        "conversations": "ctrl+o",
        "regenerate": "ctrl+r",
        "edit": "alt+up",
        "branch-before": "alt+left",
        "branch-after": "alt+right",
        "quit": "ctrl+q",
        "help": "f1",
        "models": "f2",
        "tokens": "f3",
        "statistics": "f4",
        "settings": "f5",
        "copy-answer": "f8",
        "copy-code": "f9",
        "palette": "ctrl+p",
    }
)
"""Each action's keys, as Textual writes them, with commas between."""

_MODIFIERS = ("ctrl", "alt", "shift", "super", "hyper", "meta")
_ALONE = frozenset({"escape", "enter", "insert", *(f"f{n}" for n in range(1, 25))})
"""Keys that neither write nor move in the prompt."""
_MOVING = frozenset(("tab", "home", "end", "pageup", "pagedown", "up", "down", "left", "right"))
_WRITING = frozenset(("space", "backspace", "delete"))
_SIGNS = frozenset(("backslash", "slash", "underscore", "minus", "plus", "full_stop", "comma", "semicolon"))
_NAMED = _ALONE | _MOVING | _WRITING | _SIGNS


def check_keys(action: str, keys: str) -> str:
    """`keys` as Textual writes them. Raises: UsageError for what is no key, or would be missing from the prompt."""
    found = [key.strip().lower() for key in keys.split(",")]
    for key in found:
        *modifiers, name = key.split("+")
        known = name in _NAMED or re.fullmatch(r"[a-z0-9]", name)
        if not known or len({*modifiers}) < len(modifiers) or not {*modifiers} <= {*_MODIFIERS}:
            raise UsageError(
                f"keys.{action} cannot be {keys!r}; write keys like ctrl+t, alt+left or f6, with commas between."
            )
        if key == "ctrl+c" or (not {*modifiers} - {"shift"} and name not in _ALONE):
            raise UsageError(f"keys.{action} cannot be {key}, which is needed to write and to leave; choose another.")
    return ",".join(found)


def check_clashes(chosen: Mapping[str, str]) -> None:
    """Raises: UsageError, naming both, if two actions would have the same key. chosen: action to keys, checked."""
    owners: dict[str, str] = {}
    for action, keys in {**DEFAULT_KEYS, **chosen}.items():
        for key in keys.split(","):
            other = owners.setdefault(key, action)
            if other != action:
                raise UsageError(f"{key} cannot be both keys.{other} and keys.{action}; change one of them.")
