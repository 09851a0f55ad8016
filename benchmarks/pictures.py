"""The pictures in docs/pictures, taken from the app with the default model at work: python -m benchmarks.pictures"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

from textual.pilot import Pilot

from edgespec.chat.session import Settings
from edgespec.engine import open_chat
from edgespec.tui.app import EdgespecApp
from edgespec.tui.prompt import Prompt

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
SIZE = (120, 38)
QUESTIONS = (
    "Write a Python function that adds two numbers.",
    "Write the same function again, with a docstring and another example.",
)
LENGTH = 160
_FONT_FACE = re.compile(r"@font-face\s*\{[^}]*\}\s*")


def save(app: EdgespecApp, name: str) -> None:
    """Without the fonts that the export would fetch from elsewhere: any monospaced one does."""
    svg = _FONT_FACE.sub("", app.export_screenshot(title="edgespec"))
    (PICTURES / f"{name}.svg").write_text(svg, encoding="utf-8")
    print(PICTURES / f"{name}.svg")


async def until(pilot: Pilot[None], condition: Callable[[], object]) -> None:
    while not condition():
        await pilot.pause(0.05)
    await pilot.pause(0.6)


async def take() -> None:
    settings = Settings(max_tokens=LENGTH)
    app = EdgespecApp(lambda progress: open_chat(settings=settings, progress=progress, offline=True))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.chat)
        for turns, question in enumerate(QUESTIONS, start=1):
            app.query_one(Prompt).insert(question)
            await pilot.press("enter")
            await until(pilot, lambda turns=turns: len(app.query("AnswerBlock > .footer")) == turns)
        save(app, "chat")
        for key, name in (("f3", "tokens"), ("f4", "statistics")):
            await pilot.press(key)
            if key == "f3":
                await pilot.press("r")
            await pilot.pause(0.6)
            save(app, name)
            await pilot.press("escape")


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    asyncio.run(take())
