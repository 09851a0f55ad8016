"""Textual's light theme with letters that can be read: its background is lighter, its accents are darker."""

from __future__ import annotations

from dataclasses import replace

from textual.theme import BUILTIN_THEMES

_LIGHT = BUILTIN_THEMES["textual-light"]

LIGHT = replace(
    _LIGHT,
    background="#f6f6f6",
    surface="#ececec",
    panel="#e4e4e4",
    accent="#8f5200",
    warning="#8f5200",
    success="#1d7a3a",
    error="#a32645",
    variables={**_LIGHT.variables, "footer-key-foreground": "#0063b1"},
)
