"""What may reach a screen. Every text that a model, a file or a stranger wrote goes through here on its way there."""

from __future__ import annotations

_NO_PICTURE = "\ufffd"


def _visible_forms() -> dict[int, str]:
    forms = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "\u2421"}
    for code in [*range(0x80, 0xA0), *range(0xD800, 0xE000), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]:
        forms[code] = _NO_PICTURE
    del forms[ord("\n")], forms[ord("\t")]
    forms[ord("\r")] = ""
    return forms


_VISIBLE = _visible_forms()


def printable(text: str) -> str:
    """`text` without anything that a terminal would obey.

    Control characters (C0, DEL) become their control pictures (U+2400 on); C1, lone surrogates, bidirectional
    embeddings, overrides and isolates, which have none, become U+FFFD. Line feed and tab stay. A carriage return is
    dropped: what follows it can overwrite nothing, and lines that end in CR LF look like others. Joined emoji and
    right-to-left letters stay as they are.

    Each character is judged alone: `printable(a + b) == printable(a) + printable(b)`, so no split of an escape sequence
    over tokens gets through. Linear in the length.
    """
    return text.translate(_VISIBLE)
