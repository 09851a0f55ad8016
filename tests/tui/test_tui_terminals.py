"""Terminals that know less, or are far away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from scripted import ScriptedChat, answered, app_for, ask, make_round, screen_text, wait_for_text

from edgespec.tui.app import EdgespecApp
from edgespec.tui.setup import Setup
from edgespec.tui.terminal import Pace, frame_seconds, needs_ascii, over_ssh, to_ascii


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LANG": "en_US.UTF-8"}, False),
        ({"LANG": "C.utf8"}, False),
        ({"LANG": "de_DE.ISO-8859-1"}, True),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "de_DE.iso885915"}, True),
        ({"LANG": "de_DE.ISO-8859-1", "LC_CTYPE": "C.UTF-8"}, False),
        ({"LANG": "C"}, False),
        ({}, False),
    ],
)
def test_the_locale_says_whether_the_terminal_knows_more_than_ascii(
    environment: dict[str, str], expected: bool
) -> None:
    assert needs_ascii(environment) is expected


@given(st.text())
def test_ascii_takes_the_same_room(text: str) -> None:
    assert to_ascii(text).isascii()
    assert sum(map(cell_len, text)) == len(to_ascii(text)) or not text.isprintable()


def test_what_has_a_likeness_keeps_it() -> None:
    assert to_ascii("café – “naïve”… 天") == 'cafe - "naive". ??'


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
@pytest.mark.parametrize("key", ["", "f1", "f3", "f4", "f5", "ctrl+p"])
async def test_nothing_but_ascii_is_painted_where_nothing_else_is_known(
    chat: ScriptedChat, size: tuple[int, int], key: str
) -> None:
    app = EdgespecApp(lambda _: chat, setup=Setup(lambda _: lambda _: chat, values={"screen.ascii": True}))
    async with app.run_test(size=size) as pilot:
        await ask(pilot, "Straße?")
        for _ in range(5):
            chat.say("- läuft **gut**: ½ 天\n", make_round())
        chat.finish()
        await answered(pilot, 1)
        if key:
            await pilot.press(key)
        await pilot.pause()
        assert screen_text(app).isascii()


@pytest.mark.parametrize(("each", "wait"), [(0.0001, 0.1), (0.005, 0.2), (0.1, 0.3)])
def test_painting_takes_its_share_and_no_more(each: float, wait: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("edgespec.tui.terminal.thread_time", lambda: next(clock) * each)
    pace = Pace()
    assert [pace.wait() for _ in range(30)][-1] == pytest.approx(wait, rel=0.01)


async def test_far_away_less_is_painted(chat: ScriptedChat, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not over_ssh({})
    near = frame_seconds()
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.1 50000 192.0.2.2 22")
    assert frame_seconds() > 2 * near
    app = app_for(chat)
    async with app.run_test(size=(80, 24)) as pilot:
        await ask(pilot, "far?")
        chat.say("Very far.")
        await wait_for_text(pilot, "Very far.")
        assert app.animation_level == "none"


async def test_without_colour_nothing_is_lost(chat: ScriptedChat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "go")
        for _ in range(5):
            chat.say("word ", make_round())
        await wait_for_text(pilot, "67 %  10/15")
        colours = {
            style.color.triplet
            for strip in app.screen._compositor.render_strips()
            for _, style, _ in strip
            if style is not None and style.color is not None and style.color.triplet is not None
        }
        assert all(red == green == blue for red, green, blue in colours)
        assert f"1  {'━' * 19} 100 %" in screen_text(app)
        assert f"3  {'─' * 19}   0 %" in screen_text(app)
