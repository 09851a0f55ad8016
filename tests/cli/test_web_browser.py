"""The chat in a real browser without a screen: its page, its keys, its connections."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from test_web import address, aiohttp  # a fixture, and what the extra brings

__all__ = ["address"]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
PATIENCE = 60


class Page:
    """A page of a browser, driven by the DevTools protocol."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._ids = connection, itertools.count(1)
        self.events: list[dict[str, Any]] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        await self._connection.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = json.loads((await self._connection.receive(timeout=PATIENCE)).data)
            if message.get("id") == number:
                return message["result"]
            self.events.append(message)

    async def value(self, script: str) -> Any:
        return (await self.call("Runtime.evaluate", expression=script, returnByValue=True))["result"].get("value")

    async def write(self, text: str) -> None:
        for letter in text:
            await self.call("Input.dispatchKeyEvent", type="keyDown", key=letter, text=letter)
            await self.call("Input.dispatchKeyEvent", type="keyUp", key=letter)

    async def press_enter(self) -> None:
        key = {"key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **key)

    async def until(self, script: str) -> None:
        for _ in range(PATIENCE * 10):
            if await self.value(script):
                return
            await asyncio.sleep(0.1)
        raise TimeoutError(script)

    def named(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") == method]


@asynccontextmanager
async def browser(profile: Path) -> AsyncGenerator[Page]:
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
    ]
    quiet = ["--disable-background-networking", "--disable-component-update", "--no-first-run", "about:blank"]
    process = subprocess.Popen([str(CHROMIUM), *flags, *quiet], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        port = next(found[1] for line in process.stderr if (found := re.search(r"ws://127\.0\.0\.1:(\d+)/", line)))
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                (tab,) = (tab for tab in await response.json() if tab["type"] == "page")
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as connection:
                yield Page(connection)
    finally:
        process.terminate()
        process.communicate()


async def test_a_question_from_a_browser_is_answered(
    address: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = address.partition("/?")[0]
    async with browser(tmp_path / "profile") as page:
        await page.call("Network.enable")
        await page.call("Page.enable")
        await page.call("Page.navigate", url=address)
        await page.until("document.body && document.body.classList.contains('-first-byte')")
        await page.until("document.querySelector('.textual-terminal textarea') !== null")
        await page.value("document.querySelector('.textual-terminal textarea').focus()")
        await page.write("from a browser")
        await page.call(
            "Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13
        )
        question, answer = await kept(home)
        blocked = {failed["requestId"] for failed in page.named("Network.loadingFailed") if failed.get("blockedReason")}
        elsewhere = {
            sent["requestId"]: sent["request"]["url"]
            for sent in page.named("Network.requestWillBeSent")
            if not sent["request"]["url"].startswith((base, "data:"))
        }
    assert question == "from a browser"
    assert answer
    assert {*elsewhere} <= blocked, elsewhere


async def kept(home: Path) -> list[str]:
    """The conversation, once another process finds it on the disk."""
    command = [sys.executable, "-m", "edgespec", "history", "show", "--json"]
    environment = {**os.environ, "EDGESPEC_HOME": str(home)}
    for _ in range(PATIENCE):
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        texts = [message["text"] for message in json.loads(found.stdout)["messages"]] if found.stdout else []
        if len(texts) == 2 and texts[1]:
            return texts
        await asyncio.sleep(1)
    raise TimeoutError("nothing was kept")
