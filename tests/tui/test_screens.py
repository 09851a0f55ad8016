"""Every screen as it looks, in both sizes and without colour. EDGESPEC_UPDATE_SCREENS=1 writes them anew: look at the
difference before it is kept."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from rich.color import Color
from rich.style import Style
from scripted import ScriptedChat, answered, ask, make_round, screen_text, wait_for_text, wait_until
from textual.content import Content
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, TextArea

from edgespec.choices import Choice
from edgespec.conversations.recorder import Recorder
from edgespec.decoding.costs import Costs, DraftCost
from edgespec.tui import conversations, sidebar
from edgespec.tui.app import EdgespecApp
from edgespec.tui.setup import Choosing, Setup

SCREENS = Path(__file__).with_name("screens")
UPDATE = os.environ.get("EDGESPEC_UPDATE_SCREENS") == "1"
ANSWER = """<think>Two parts.</think>A *draft* proposes, the **model** verifies:

1. propose `k` tokens
2. keep what the model would have said

```python
def accept(p, q):
    return min(1.0, p / q)  # Leviathan et al.
```

| k | tok/round |
|---|----------:|
| 2 |       2.4 |
"""
CHOICES = [
    Choice("scripted-1b", size=150_000_000, memory=400_000_000, draft="ngram", speedup=1.43, about="int8, Apache-2.0"),
    Choice("huge-70b", size=70_000_000_000, memory=80_000_000_000, obstacle="it needs 80.0 GB and 8.0 GB are free"),
]
WORDS = {0: b" the", 1: b" draft", 2: b" pro", 3: b"poses", 4: b"."}


async def welcome(pilot: Pilot[None], chat: ScriptedChat) -> None:
    await wait_for_text(pilot, "scripted-1b")


async def answer(pilot: Pilot[None], chat: ScriptedChat) -> None:
    await ask(pilot, "How does it work?")
    rounds = [make_round(3, 4, 4), make_round(4, 4, 4), make_round(0, 1, 4), make_round(0, 0, 0)]
    for i, start in enumerate(range(0, len(ANSWER), 16)):
        chat.say(ANSWER[start : start + 16], rounds[i % 3] if i != 5 else rounds[3])
    chat.finish()
    await answered(pilot, 1)


def after_answer(*keys: str) -> Callable[[Pilot[None], ScriptedChat], Awaitable[None]]:
    async def show(pilot: Pilot[None], chat: ScriptedChat) -> None:
        await answer(pilot, chat)
        await pilot.press(*keys)
        await wait_until(pilot, lambda: len(pilot.app.screen_stack) == 2)

    return show


async def listed(pilot: Pilot[None], chat: ScriptedChat) -> None:
    await after_answer("ctrl+o")(pilot, chat)
    await wait_until(pilot, lambda: pilot.app.screen.query_one(OptionList).option_count)


async def context(pilot: Pilot[None], chat: ScriptedChat) -> None:
    await answer(pilot, chat)
    await ask(pilot, "/context")
    await wait_until(pilot, lambda: len(pilot.app.screen_stack) == 2)


async def palette(pilot: Pilot[None], chat: ScriptedChat) -> None:
    await after_answer("ctrl+p")(pilot, chat)
    everything = len([*pilot.app.get_system_commands(pilot.app.screen)])
    await wait_until(pilot, lambda: pilot.app.screen.query_one(OptionList).option_count == everything)


WAYS: dict[str, Callable[[Pilot[None], ScriptedChat], Awaitable[None]]] = {
    "welcome": welcome,
    "answer": answer,
    "help": after_answer("f1"),
    "models": after_answer("f2"),
    "tokens": after_answer("f3", "r"),
    "statistics": after_answer("f4"),
    "settings": after_answer("f5"),
    "conversations": listed,
    "context": context,
    "palette": palette,
}
KINDS = {"80x24": ((80, 24), False), "200x60": ((200, 60), False), "no-color": ((80, 24), True)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WAYS)
async def test_it_looks_as_it_did(name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size, colourless = KINDS[kind]
    if colourless:
        monkeypatch.setenv("NO_COLOR", "1")
    # What differs from machine to machine and from day to day.
    monkeypatch.setattr(sidebar, "_memory", lambda: [Content("used              0.4 of 16 GB")])
    monkeypatch.setattr(conversations, "when", lambda _seconds: "2026-11-22 12:00")
    chat = ScriptedChat()
    chat.words = WORDS
    passes = (5.0, 6.0, 6.5, 7.0, 8.0)
    chat.costs = Costs((128, 1024), (passes, passes), (5.5, 5.5), {"ngram": DraftCost(0.05, 0.01)})
    setup = Setup(
        lambda _: lambda _: chat,
        choosing=lambda _kind, _model: Choosing(lambda: CHOICES, lambda _n, _p: None, lambda _: ""),
    )
    app = EdgespecApp(lambda _: chat, Recorder(tmp_path), setup)
    async with app.run_test(size=size) as pilot:
        await WAYS[name](pilot, chat)
        await settled(pilot)
        found = picture(app)
    app.recorder.close()
    path = SCREENS / f"{name}-{kind}.txt"
    if UPDATE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert path.exists(), "EDGESPEC_UPDATE_SCREENS=1 writes it"
    assert found == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("theme", ["textual-light", "textual-dark"])
async def test_letters_stand_out_from_what_is_behind_them(theme: str, tmp_path: Path) -> None:
    chat = ScriptedChat()
    setup = Setup(lambda _: lambda _: chat, values={"screen.theme": theme})
    app = EdgespecApp(lambda _: chat, Recorder(tmp_path), setup)
    async with app.run_test(size=(110, 50)) as pilot:
        await answer(pilot, chat)
        for keys in ([], ["f3"], ["escape", "ctrl+o"]):
            await pilot.press(*keys)
            await settled(pilot)
            parts = [part for strip in app.screen._compositor.render_strips() for part in strip]
            assert not {text.strip() for text, style, _ in parts if contrast(text, style) < 4.0}, keys
    app.recorder.close()


def contrast(text: str, style: Style | None) -> float:
    """The ratio of luminances as WCAG 2 defines it, for words; infinite for lines and blanks."""
    if not any(map(str.isalnum, text)) or style is None or style.color is None or style.bgcolor is None:
        return float("inf")
    dark, light = sorted(map(luminance, (style.color, style.bgcolor)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: Color) -> float:
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour.get_truecolor()]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


async def settled(pilot: Pilot[None]) -> None:
    """Until nothing moves any more."""
    for widget in [*pilot.app.screen.query(TextArea), *pilot.app.screen.query(Input)]:
        widget.cursor_blink = False
    await pilot.wait_for_scheduled_animations()
    before = ""
    while before != (before := screen_text(pilot.app)):
        await pilot.pause(0.15)


def picture(app: EdgespecApp) -> str:
    """The text, and below it a letter for the style of each cell that is not blank."""
    letters: dict[str, str] = {}
    text, styles = list[str](), list[str]()
    for strip in app.screen._compositor.render_strips():
        text.append(strip.text.rstrip())
        cells = "".join(letter(style, letters) * len(part) for part, style, _ in strip)
        styles.append("".join("." if c == " " else s for c, s in zip(strip.text, cells, strict=True)).rstrip("."))
    legend = [f"{sign} {style}" for style, sign in letters.items()]
    return "\n".join([*text, "", *styles, "", *legend, ""])


def letter(style: Style | None, letters: dict[str, str]) -> str:
    said = "none" if style is None else str(Style(color=style.color, bgcolor=style.bgcolor) + style.without_color)
    return letters.setdefault(said, chr(ord("A") + len(letters)))
