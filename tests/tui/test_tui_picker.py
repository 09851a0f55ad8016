"""Choosing a model or a draft, and fetching one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from threading import Event as Flag

from scripted import ScriptedChat, screen_text, wait_for_text, wait_until
from textual.pilot import Pilot

from edgespec.choices import Choice
from edgespec.config import Value
from edgespec.errors import DownloadError
from edgespec.tui.app import EdgespecApp
from edgespec.tui.engine import Load, Progress
from edgespec.tui.picker import Picker
from edgespec.tui.setup import Choosing, Setup

CHOICES = [
    Choice("scripted-1b", size=150_000_000, memory=400_000_000, draft="ngram", speedup=1.43, about="int8, Apache-2.0"),
    Choice("other-2b", size=2_000_000_000, memory=3_000_000_000, draft="ngram"),
    Choice(
        "huge-70b",
        size=70_000_000_000,
        memory=80_000_000_000,
        obstacle="it needs 80.0 GB and 8.0 GB are free",
    ),
    Choice("far-4b", here=False, size=8_000_000_000, memory=6_000_000_000, draft="far-1b", about="Far 4B, Apache-2.0"),
]


class Shop:
    """What is there to choose from, and what becomes of a pull."""

    def __init__(self, chat: ScriptedChat) -> None:
        self.chat, self.opened = chat, list[Mapping[str, Value]]()
        self.pulling, self.release, self.stopped = Flag(), Flag(), Flag()
        self.error: Exception | None = None

    def opener(self, values: Mapping[str, Value]) -> Load:
        def load(progress: Progress) -> ScriptedChat:
            self.opened.append(values)
            return self.chat

        return load

    def pull(self, name: str, progress: Progress) -> None:
        while not self.release.is_set():
            try:
                progress(f"Fetching {name}", 0.42)
            except BaseException:
                self.stopped.set()
                raise
            self.pulling.set()
        if self.error is not None:
            raise self.error

    @property
    def app(self) -> EdgespecApp:
        setup = Setup(
            self.opener,
            choosing=lambda _kind, _model: Choosing(lambda: CHOICES, self.pull, lambda choice: f"{choice.draft} wins"),
        )
        return EdgespecApp(self.opener({}), setup=setup)


@asynccontextmanager
async def choosing(shop: Shop, shows: str) -> AsyncGenerator[Pilot[None]]:
    """The picker of models is open, and `shows` this."""
    app = shop.app
    async with app.run_test(size=(80, 24)) as pilot:
        await wait_until(pilot, lambda: app.chat is shop.chat)
        await pilot.press("f2")
        await wait_for_text(pilot, shows)
        yield pilot


async def test_a_model_is_chosen(chat: ScriptedChat) -> None:
    shop = Shop(chat)
    async with choosing(shop, "* scripted-1b") as pilot:
        text = screen_text(pilot.app)
        assert "150 MB  400 MB  1.43x" in text
        assert "int8, Apache-2.0" in text
        assert "+ far-4b" in text
        await pilot.press("down", "enter")
        await wait_until(pilot, lambda: len(shop.opened) == 2)
        assert shop.opened[-1] == {"model": "other-2b"}


async def test_what_does_not_fit_says_why(chat: ScriptedChat) -> None:
    async with choosing(Shop(chat), "! huge-70b") as pilot:
        await pilot.press("down", "down", "enter")
        await wait_for_text(pilot, "huge-70b cannot be chosen: it needs 80.0 GB and 8.0 GB are free.")
        assert isinstance(pilot.app.screen, Picker)


async def test_a_model_is_fetched_and_opened(chat: ScriptedChat) -> None:
    shop = Shop(chat)
    async with choosing(shop, "+ far-4b") as pilot:
        await pilot.press("end", "enter")
        await wait_for_text(pilot, "42 %  Fetching far-4b")
        shop.release.set()
        await wait_until(pilot, lambda: len(shop.opened) == 2)
        assert shop.opened[-1] == {"model": "far-4b"}


async def test_escape_stops_a_fetch_and_then_goes_back(chat: ScriptedChat) -> None:
    shop = Shop(chat)
    async with choosing(shop, "+ far-4b") as pilot:
        await pilot.press("end", "enter")
        await wait_until(pilot, shop.pulling.is_set)
        await pilot.press("escape")
        await wait_for_text(pilot, "Stopped; what was fetched is kept, and Enter goes on.")
        assert shop.stopped.is_set()
        assert isinstance(pilot.app.screen, Picker)
        await pilot.press("escape")
        await wait_until(pilot, lambda: not isinstance(pilot.app.screen, Picker))
        assert len(shop.opened) == 1


async def test_a_fetch_that_fails_says_so(chat: ScriptedChat) -> None:
    shop = Shop(chat)
    shop.error = DownloadError("The network is down.")
    shop.release.set()
    async with choosing(shop, "+ far-4b") as pilot:
        await pilot.press("end", "enter")
        await wait_for_text(pilot, "The network is down.")


async def test_what_was_not_measured_can_be_predicted(chat: ScriptedChat) -> None:
    async with choosing(Shop(chat), "+ far-4b") as pilot:
        await pilot.press("end")
        await wait_for_text(pilot, "Speed-up: not measured here yet")
        await pilot.press("p")
        await wait_for_text(pilot, "far-4b: far-1b wins")
