"""The tree: nothing is lost by asking again, and every branch can be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.conversations.conversation import TITLE_LENGTH, Conversation, Entry, excerpt, title_of


def grow(parents: list[int | None]) -> Conversation:
    """Entry i + 1 behind parents[i]; the last is the leaf."""
    tree = Conversation(leaf=len(parents))
    for i, parent in enumerate(parents, start=1):
        tree.add(Entry(i, parent, "user" if i % 2 else "assistant", f"text {i}", float(i)))
    return tree


def test_the_path_is_the_branch_that_is_read() -> None:
    tree = grow([None, 1, 2, 3, 2, 5])
    assert [e.id for e in tree.path()] == [1, 2, 5, 6]
    tree.leaf = 4
    assert [e.id for e in tree.path()] == [1, 2, 3, 4]
    assert [e.id for e in tree.children(2)] == [3, 5]
    assert Conversation().path() == Conversation().branches() == []


def test_branches_that_have_more_in_common_are_nearer() -> None:
    assert grow([None, 1, 2, 1, 4, 2, None]).branches() == [3, 6, 5, 7]


@given(st.lists(st.integers(0, 20), max_size=20))
def test_branches_reach_every_message(choices: list[int]) -> None:
    tree = grow([choice % i or None for i, choice in enumerate(choices, start=1)])
    ends = tree.branches()
    assert len(set(ends)) == len(ends)
    seen: set[int] = set()
    for end in ends:
        tree.leaf = end
        assert not tree.children(end)
        seen |= {e.id for e in tree.path()}
    assert seen == set(tree.entries)


def test_what_lost_its_parent_is_still_found() -> None:
    tree = grow([None, 1, 2, 3])
    del tree.entries[2]
    assert sorted(tree.branches()) == [1, 4]
    assert [e.id for e in tree.path()] == [3, 4]


def test_ids_grow() -> None:
    tree = Conversation()
    for _ in range(100):
        tree.add(Entry(tree.new_id(), None, "user", "", 0.0))
    ids = list(tree.entries)
    assert ids == sorted(ids)
    assert ids[-1] < 2**63


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Why is the sky blue?", "Why is the sky blue?"),
        ("\n\n  ## A **plan**\n\nfirst", "A **plan"),
        ("  two\t words  ", "two words"),
        ("```\ncode\n```", "code"),
        ("\x1b]0;owned\x07 hi\x9b2J", "␛]0;owned␇ hi�2J"),
        ("***", "untitled"),
        ("", "untitled"),
        ("x" * 100, "x" * TITLE_LENGTH + "…"),
        ("word " * 30, ("word " * 12).rstrip() + "…"),
    ],
)
def test_titles(text: str, title: str) -> None:
    assert title_of(text) == title


@given(st.text(max_size=300))
def test_any_text_has_a_title_that_fits_a_line(text: str) -> None:
    title = title_of(text)
    assert title
    assert len(title) <= TITLE_LENGTH + 1
    assert not set(title) & {"\n", "\x1b", "\r"}


def test_an_excerpt_shows_what_was_looked_for() -> None:
    text = "before " * 50 + "the NEEDLE\x1b in " + "after " * 50
    found = excerpt(text, ["needle"], 40)
    assert "NEEDLE␛ in" in found
    assert (found[0], found[-1], len(found)) == ("…", "…", 42)
    assert excerpt("short needle", ["needle"]) == "short needle"
