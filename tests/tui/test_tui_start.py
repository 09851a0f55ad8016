"""Loading, failing to load, and leaving."""

from __future__ import annotations

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from threading import Event as Flag
from threading import Thread, get_native_id

import pytest
from scripted import ScriptedChat, app_for, ask, loads, screen_text, wait_for_text, wait_until

from edgespec.config import Config
from edgespec.errors import CancelledError, ModelError, UsageError
from edgespec.tui.app import EdgespecApp
from edgespec.tui.engine import Progress
from edgespec.tui.prompt import Prompt
from edgespec.tui.run import run_app
from edgespec.tui.workers import give_way


def test_the_first_screen_waits_for_nothing_that_it_does_not_show() -> None:
    engine = ["onnxruntime", "onnx", "numpy", "tokenizers", "jinja2", "gguf", "torch"]
    later = ["markdown_it", "pygments.lexers", "sqlite3", "psutil", "tomlkit", "edgespec.bundle", "edgespec.tui.picker"]
    code = f"import sys, edgespec.cli.main, edgespec.tui.run; print({{*{engine + later}}} & {{*sys.modules}})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no niceness of their own")
def test_the_models_threads_give_way_to_the_one_that_paints() -> None:
    niceness: list[int] = []

    def load() -> None:
        give_way()
        pool = Thread(target=lambda: niceness.append(os.getpriority(os.PRIO_PROCESS, get_native_id())))
        pool.start()
        pool.join()

    before = os.getpriority(os.PRIO_PROCESS, 0)
    loads_it = Thread(target=load)
    loads_it.start()
    loads_it.join()
    assert niceness[0] > before or before == 19
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_without_a_terminal_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", StringIO())
    with pytest.raises(UsageError, match="interactive terminal"):
        run_app(Config(Path("config.toml")), None)


async def test_a_message_sent_while_the_model_loads_goes_out_when_it_is_ready(chat: ScriptedChat) -> None:
    ready = Flag()

    def load(progress: Progress) -> ScriptedChat:
        progress("fetching scripted-1b", 0.42)
        ready.wait(60)
        return chat

    app = EdgespecApp(load)
    async with app.run_test(size=(120, 40)) as pilot:
        await wait_for_text(pilot, "42 %  fetching scripted-1b")
        await ask(pilot, "early bird")
        await wait_for_text(pilot, "early bird")
        assert chat.sent == []
        ready.set()
        await wait_until(pilot, lambda: chat.sent == ["early bird"])
        chat.say("Good morning.")
        await wait_for_text(pilot, "Good morning.")
        assert "fetching" not in screen_text(app)


async def test_escape_takes_a_waiting_message_back(chat: ScriptedChat) -> None:
    ready = Flag()

    def load(progress: Progress) -> ScriptedChat:
        ready.wait(60)
        return chat

    app = EdgespecApp(load)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "never mind")
        await pilot.press("escape")
        await wait_for_text(pilot, "(not sent)")
        assert app.query_one(Prompt).text == "never mind"
        ready.set()
        await wait_for_text(pilot, "scripted-1b")
        assert chat.sent == []


async def test_a_failed_load_says_how_to_go_on(chat: ScriptedChat) -> None:
    def fail(progress: Progress) -> ScriptedChat:
        raise ModelError("There is no model. Run `edgespec pull`.")

    app = EdgespecApp(loads(fail, lambda progress: chat))
    async with app.run_test(size=(120, 40)) as pilot:
        await wait_for_text(pilot, "There is no model. Run `edgespec pull`.")
        await wait_for_text(pilot, "Send a message to try again")
        assert isinstance(app.load_error, ModelError)
        await ask(pilot, "now?")
        await wait_until(pilot, lambda: chat.sent == ["now?"])
        assert app.load_error is None


async def test_quitting_stops_the_answer(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "endless")
        chat.say("and on")
        await wait_for_text(pilot, "and on")
        await pilot.press("ctrl+q")
    assert chat.idle.wait(20)
    assert chat.answers[-1].finish_reason == "cancelled"
    assert app.return_code == 0


async def test_an_early_stop_is_not_lost(chat: ScriptedChat, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, stops = chat.stop, list[None]()
    # The first one comes too early for this engine.
    monkeypatch.setattr(chat, "stop", lambda: stops.append(None) or (stop() if len(stops) > 1 else None))
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "endless")
        await wait_until(pilot, chat.sending.is_set)
        await pilot.press("escape")
        await wait_until(pilot, lambda: stops)
        chat.say("one round")
        await wait_for_text(pilot, "(stopped)")


async def test_the_figures_may_tick_while_the_app_closes(chat: ScriptedChat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgespec.tui.talk.figure_seconds", lambda: 0.001)
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, "endless")
        chat.say("and on")
        await wait_for_text(pilot, "and on")
    assert chat.idle.wait(20)


async def test_quitting_stops_the_load() -> None:
    begun, ended = Flag(), Flag()

    def load(progress: Progress) -> ScriptedChat:
        try:
            while True:
                progress("fetching", 0.1)
                begun.set()
                ended.wait(0.01)
        except CancelledError:
            ended.set()
            raise

    app = EdgespecApp(load)
    async with app.run_test(size=(120, 40)) as pilot:
        await wait_until(pilot, begun.is_set)
        await pilot.press("ctrl+q")
    assert ended.wait(20)


async def test_ctrl_c_stops_then_quits(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await ask(pilot, "endless")
        chat.say("and on")
        await wait_for_text(pilot, "and on")
        await pilot.press("ctrl+c")
        await wait_for_text(pilot, "(stopped)")
        await wait_for_text(pilot, "Press Ctrl+C again to quit.")
        assert app.is_running
        await pilot.press("ctrl+c")
        await wait_until(pilot, lambda: app._exit)
    assert app.return_code == 0


async def test_ctrl_c_copies_a_selection(chat: ScriptedChat) -> None:
    app = app_for(chat)
    async with app.run_test(size=(120, 40)) as pilot:
        app.query_one(Prompt).insert("copy me")
        app.query_one(Prompt).select_all()
        await pilot.press("ctrl+c", "ctrl+c")
        assert app.clipboard == "copy me"
        assert app.is_running
