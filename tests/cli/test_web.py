"""The chat in a browser: it starts, paints and answers, for whoever has the token and nobody else."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

from edgespec.cli import main

aiohttp = pytest.importorskip("aiohttp", reason="the extra web is not installed")
pytest.importorskip("textual_serve", reason="the extra web is not installed")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(port: int) -> None:
    """The address is told a moment before the door opens."""
    deadline = monotonic() + 30
    while monotonic() < deadline:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            sleep(0.02)
    raise TimeoutError("nobody listens")


@pytest.fixture
def address(home: Path) -> Iterator[str]:
    """Where `edgespec web` says that the chat is."""
    (home / "config.toml").write_text('model = "tiny"\nmax-tokens = 8\n')
    command = [sys.executable, "-m", "edgespec", "web", "--port", str(free_port())]
    environment = {**os.environ, "EDGESPEC_HOME": str(home), "EDGESPEC_HISTORY": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        found = re.search(r"http://\S+token=[\w-]+", child.stderr.readline())
        assert found
        wait_for(int(command[-1]))
        yield found[0]
        child.terminate()


async def test_without_the_token_there_is_nothing(address: str) -> None:
    base, _, token = address.partition("/?token=")
    async with aiohttp.ClientSession() as session:
        for url, headers in (
            (f"{base}/", {}),
            (f"{base}/?token=guessed", {}),
            (f"{base}/ws", {}),
            (f"{base}/ws?token={token}", {"Origin": "http://elsewhere.example"}),
            (address, {"Host": "rebound.example:8000"}),
        ):
            async with session.get(url, headers=headers) as response:
                assert response.status == 403, url


async def test_the_page_fetches_nothing_from_elsewhere(address: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(address) as response:
        assert response.status == 200
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "//" not in policy.replace("ws://127.0.0.1", "")


async def test_it_paints_and_answers(address: str) -> None:
    base = address.partition("/?token=")[0]
    jar = aiohttp.CookieJar(unsafe=True)  # cookies of an address without a name
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        async with session.get(address):
            pass
        async with session.ws_connect(f"{base}/ws?width=120&height=40", origin=base) as socket_:
            seen = b""
            asked = False
            while b"tok/s \xc2\xb7 first" not in seen:
                message = await socket_.receive(timeout=60)
                assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), message
                seen += message.data if isinstance(message.data, bytes) else b""
                if not asked and b"Write a message" in seen:
                    asked = True
                    await socket_.send_json(["stdin", "hello\r"])


def test_without_the_extra_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main.run(["web"]) == 2
    assert "pip install 'edgespec[web]'" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main.run(["web", "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another --port" in capsys.readouterr().err
