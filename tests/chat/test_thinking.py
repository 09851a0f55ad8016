"""Thoughts are told from the answer however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.chat.thinking import ThoughtSplitter, was_opened


def split(text: str, cuts: list[int], *, opened: bool = False) -> tuple[str, str]:
    splitter = ThoughtSplitter(opened=opened)
    parts = [splitter.push(text[a:b]) for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    parts.append(splitter.finish())
    return "".join(t for t, _ in parts).rstrip(), "".join(a for _, a in parts)


CASES = [
    ("<think>\nhm, 2 < 3\n</think>\n\nYes.", False, ("hm, 2 < 3", "Yes.")),
    ("hm </thin king\n</think>\n\nYes.", True, ("hm </thin king", "Yes.")),
    ("<think>\n\n</think>\n\nYes.", False, ("", "Yes.")),
    ("<think>never ends </thi", False, ("never ends </thi", "")),
    ("Use <think> and </think>.", False, ("", "Use <think> and </think>.")),
    ("<thi", False, ("", "<thi")),
    ("  indented", False, ("", "  indented")),
    ("", True, ("", "")),
]


@pytest.mark.parametrize(("text", "opened", "expected"), CASES)
@given(st.data())
def test_however_it_is_cut(text: str, opened: bool, expected: tuple[str, str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    assert split(text, cuts, opened=opened) == expected


def test_nothing_is_held_back_that_cannot_be_a_tag() -> None:
    splitter = ThoughtSplitter(opened=False)
    assert splitter.push("A") == ("", "A")
    assert splitter.push(" <") == ("", " <")
    splitter = ThoughtSplitter(opened=True)
    assert splitter.push("a <b") == ("a <b", "")
    assert splitter.push("</") == ("", "")
    assert splitter.push("b") == ("</b", "")


def test_a_kept_answer_tells_whether_its_thought_was_open() -> None:
    assert was_opened("so\n</think>\nYes")
    assert not was_opened("<think>so</think>Yes")
    assert not was_opened("Yes")
