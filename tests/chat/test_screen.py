from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.chat.screen import printable

BIDI_CONTROLS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
PIECES = st.lists(
    st.sampled_from(["\x1b", "\x1b]0;", "\x9b", "\r", "\n", "\r\n", "\ud83e", "\udd86", "\u202e", "a", "鷺", "🦆"])
)


def obeyed(character: str) -> bool:
    """Whether a terminal may do more than show it, by what Unicode says of it."""
    if unicodedata.category(character) in ("Cc", "Cs"):
        return character not in "\n\t"
    return unicodedata.bidirectional(character) in BIDI_CONTROLS


def test_of_all_characters_those_that_a_terminal_obeys_are_replaced_and_no_others() -> None:
    for character in map(chr, range(sys.maxunicode + 1)):
        shown = printable(character)
        assert (shown != character) == obeyed(character), hex(ord(character))
        assert not any(map(obeyed, shown))
        assert shown or character == "\r"


@given(PIECES, PIECES)
def test_no_split_over_tokens_defeats_it(a: list[str], b: list[str]) -> None:
    first, second = "".join(a), "".join(b)
    assert printable(first + second) == printable(first) + printable(second)
    printable(first + second).encode()


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b]52;c;aGk=\x07", "␛]52;c;aGk=␇"),
        ("\x1b]8;;http://a\x1b\\b", "␛]8;;http://a␛\\b"),
        ("\x1bP1$q\x1b\\", "␛P1$q␛\\"),
        ("\x9b2J\0\x7f", "\ufffd2J␀␡"),
        ("one\r\ntwo\rthree", "one\ntwothree"),
        ("user\u202etxt.exe", "user\ufffdtxt.exe"),
    ],
)
def test_escape_sequences_become_visible(raw: str, shown: str) -> None:
    assert printable(raw) == shown


@pytest.mark.parametrize("text", ["a\tb\n", "👩‍👩‍👧 🏳️‍🌈", "שלום \u200fעולם", "مرحبا", "鷺 naïve", "[/bold] [a[0]]", ""])
def test_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text
