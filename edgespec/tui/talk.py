"""The conversation: opening models, sending messages, showing answers. Workers run the engine and post messages; the
handlers here own the state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from threading import Event as Flag
from time import monotonic
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Footer

from edgespec.config import Value
from edgespec.config.keymap import DEFAULT_KEYS
from edgespec.conversations.recorder import Recorder
from edgespec.errors import ContextFullError, EdgespecError
from edgespec.tui import figures, messages, workers
from edgespec.tui.baseline import Baseline
from edgespec.tui.branches import Branches
from edgespec.tui.completion import Completion
from edgespec.tui.engine import Engine, Load
from edgespec.tui.heading import Heading
from edgespec.tui.lines import render_blank
from edgespec.tui.outlet import OutletApp
from edgespec.tui.prompt import Prompt
from edgespec.tui.setup import Setup, keymap
from edgespec.tui.sidebar import Sidebar
from edgespec.tui.slash import SlashCommands
from edgespec.tui.status import Status
from edgespec.tui.switching import Switch, introduction
from edgespec.tui.terminal import Pace, figure_seconds, over_ssh
from edgespec.tui.theme import LIGHT
from edgespec.tui.transcript import Transcript
from edgespec.tui.turn import Turn
from edgespec.tui.turns import Turns

HINT_SECONDS = 3.0


class _Row(Horizontal):
    render_lines = render_blank


class _Column(Vertical):
    render_lines = render_blank


class _Main(Screen[None]):
    """The screen under all others."""

    render_lines = render_blank


class TalkApp(OutletApp):
    """`load` runs in a thread once the first screen is painted. What keys and commands do is EdgespecApp's."""

    CSS_PATH = Path("styles.tcss")
    TITLE = "edgespec"
    TOOLTIP_DELAY = float("inf")  # Tooltips of table cells would read an answer as markup.
    _pace: Pace  # of the frames since there was word of rounds
    HORIZONTAL_BREAKPOINTS: ClassVar[list[tuple[int, str]]] = [(0, "-narrow"), (100, "-wide")]  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, load: Load, recorder: Recorder | None = None, setup: Setup | None = None) -> None:
        self.setup = setup or Setup(lambda _values: load)
        ascii_only = self.setup.values.get("screen.ascii")
        super().__init__(ascii=None if ascii_only is None else bool(ascii_only))
        self.slash = SlashCommands(self)
        self.chat: Engine | None = None
        self.load_error: EdgespecError | None = None
        self.recorder = recorder or Recorder(None)
        self._branches = Branches(self)
        self._cancelled = Flag()
        self._switching: dict[str, Value] | None = None
        self.turns = Turns(self.recorder)
        self._after_turn: Callable[[], Awaitable[None]] | None = None
        self._frame: Timer | None = None
        self._figures_at, self._figures_behind = 0.0, False

    def get_default_screen(self) -> Screen[None]:
        return _Main(id="_default")

    def compose(self) -> ComposeResult:
        keys = {**DEFAULT_KEYS, **keymap(self.setup.values)}
        # Not in the footer, which would be mounted anew at both ends of each answer: 40 ms.
        self._answering = f"answering · {self.get_key_display(Binding(keys['stop'], 'stop'))} stops"
        with _Row():
            with _Column(id="conversation"):
                yield Heading()
                yield Transcript()
                yield Status()
                yield Completion(self.slash.arguments)
                yield Prompt(keys)
            yield Sidebar(self.turns)
        yield Footer()

    def on_mount(self) -> None:
        self._transcript = self.query_one(Transcript)
        self._sidebar = self.query_one(Sidebar)
        self._status = self.query_one(Status)
        self._prompt = self.query_one(Prompt)
        self._heading = self.query_one(Heading)
        self._completion = self.query_one(Completion)
        self.register_theme(LIGHT)
        if (theme := self.setup.values.get("screen.theme")) is not None:
            self.theme = str(theme)
        self.set_keymap(keymap(self.setup.values))
        self.theme_changed_signal.subscribe(self, lambda theme: self.setup.keep("screen.theme", theme.name) and None)
        if over_ssh():
            self.animation_level = "none"
        self._prompt.focus()

    def on_ready(self) -> None:
        """The first frame is painted: what runs in threads takes nothing from it any more."""
        self.recorder.questions(lambda texts: self.post_message(messages.QuestionsRead(texts)))
        self._begin_loading()

    def on_unmount(self) -> None:
        self._cancelled.set()
        self._stop_engine()

    def _show_figures(self) -> None:
        self._figures_at, self._figures_behind = monotonic(), False
        self._sidebar.show(self.chat)
        self.show_heading()
        if self.chat is not None:
            self._status.summarize(figures.summary(self.chat, self.turns.now))

    def show_heading(self) -> None:
        self._heading.show(self.recorder)

    # Loading

    def _begin_loading(self) -> None:
        self.load_error = None
        self._status.doing("loading the model")
        self._load_worker()

    @work(thread=True, group="load")
    def _load_worker(self) -> None:
        workers.open_chat(self.setup.opener(self.setup.values), self._cancelled, self.post_message)

    @on(messages.LoadProgress)
    def _load_goes_on(self, message: messages.LoadProgress) -> None:
        self._status.doing(message.stage, message.fraction)

    @on(messages.Loaded)
    async def _loaded(self, message: messages.Loaded) -> None:
        self.chat = message.chat
        self.turns.baseline = Baseline()
        self._status.doing("")
        if message.problem is not None:
            await self._transcript.note(f"{message.problem} {message.chat.model} is still open.", "error")
        elif self._switching is not None:
            self.setup.values = self._switching
            await self._transcript.note(introduction(message.chat), "footer")
        self._switching = None
        self._show_figures()
        if self.turns.now.state == "waiting":
            await self._begin_answer(message.chat)

    @on(messages.LoadFailed)
    async def _load_failed(self, message: messages.LoadFailed) -> None:
        self.load_error = message.error
        self._switching = None
        self._status.doing("")
        await self._transcript.note(str(message.error), "error")
        await self._transcript.note("Send a message to try again, or press Ctrl+Q to quit.", "footer")
        if self.turns.now.state == "waiting":
            self._give_back()

    def switch(self, changes: Mapping[str, Value | None]) -> None:
        """Go on with what the setup says once `changes` are made: another model or draft."""
        if not self.idle or self._switching is not None or (self.chat is None and self.load_error is None):
            self._hint("Not now: wait until the model is there and has answered, or stop it with Esc.")
            return
        self.load_error = None
        before, self._switching = self.setup.values, self.setup.changed(changes)
        self._cancelled.clear()
        load, reload = self.setup.opener(self._switching), self.setup.opener(before)
        self._switch_worker(Switch(self.chat, load, reload, self.setup.fits(self._switching), self._cancelled))
        self.chat = None
        self._status.doing("loading the model")

    @work(thread=True, group="load")
    def _switch_worker(self, switch: Switch) -> None:
        switch.run(self.post_message)

    # A turn

    @property
    def idle(self) -> bool:
        """Whether nothing is being answered or waits to be."""
        return self.turns.now.state == "ended"

    async def ask(self, text: str) -> None:
        """Send `text` as soon as there is a model. Only while `idle`."""
        self.turns.ask(text)
        self.show_heading()
        await self._transcript.note(text, "user")
        if self.chat is not None:
            await self._begin_answer(self.chat)
        elif self.load_error is not None:
            self._begin_loading()

    async def _begin_answer(self, chat: Engine) -> None:
        self.turns.now.state = "running"
        self._status.doing(self._answering)
        self._prompt.cursor_blink = False
        self.turns.now.decode = chat.token_bytes
        await self._transcript.begin_answer()
        self._turn_worker(chat, self.turns.now)

    @work(thread=True, group="turn")
    def _turn_worker(self, chat: Engine, turn: Turn) -> None:
        workers.run_turn(chat, self.recorder, turn, self.post_message)

    @on(messages.PromptRead)
    def _prompt_read(self, message: messages.PromptRead) -> None:
        done, total = message.progress.done, message.progress.total
        if not self.turns.now.stop.is_set():
            self._status.doing(f"reading prompt {done}/{total}" if done < total else self._answering)
        self._show_figures()

    @on(messages.RoundsArrived)
    def _rounds_arrived(self) -> None:
        if self._frame is None:
            self._pace = Pace()
            self._paint_frame()

    def _paint_frame(self) -> None:
        """Show what has come, and look again after a frame's time; once nothing has, when there is word of more."""
        self._frame, turn = None, self.turns.now
        turn.watched = False  # before looking: what comes later than this is told
        if self._show_rounds():
            turn.watched = True
            self._frame = self.set_timer(self._pace.wait(), self._paint_frame)

    def _show_rounds(self) -> bool:
        """Show the rounds that have come, and every few frames the figures of all; whether there were any."""
        arrived = [*self.turns.now.take()]
        if arrived and not self.turns.now.rounds and self.chat is not None and self.chat.opens_thought:
            self._transcript.open_thought()
        for delta, elapsed_ms in arrived:
            self.turns.add(delta.round, elapsed_ms)
            self._transcript.append(delta.text, len(delta.round.tokens))
        if arrived:
            self.recorder.keep()
            self._transcript.show()
            self._figures_behind = True
        if self._figures_behind and (not arrived or monotonic() - self._figures_at >= figure_seconds()):
            self._show_figures()
        return bool(arrived)

    @on(messages.TurnDone)
    async def _turn_done(self, message: messages.TurnDone) -> None:
        self.turns.now.answer = message.answer
        self._branches.compare()
        await self._end_turn(figures.footer(message.answer))

    @on(messages.TurnFailed)
    async def _turn_failed(self, message: messages.TurnFailed) -> None:
        await self._end_turn("(broken off)")
        if not self.turns.now.stats.rounds:
            self._give_back()
        await self._transcript.note(str(message.error), "error")
        if isinstance(message.error, ContextFullError):
            from edgespec.tui.context import offer_room

            offer_room(self, self.turns.now.text, message.error)

    async def _end_turn(self, footer: str) -> None:
        self.turns.now.state = "ended"
        self._prompt.cursor_blink = True
        self._show_rounds()
        self._status.doing("")
        await self._transcript.end_answer(footer)
        if not self.screen_stack:  # the app is closing
            return
        self._show_figures()
        if self._after_turn is not None:
            await self._after_turn()

    def _give_back(self) -> None:
        """End a turn that did not begin; its message may be sent again."""
        if self.turns.now.state == "waiting":
            self.recorder.take_back()
        self.turns.now.state = "ended"
        self._transcript.mark_unsent()
        self.show_heading()
        if not self._prompt.text:
            self._prompt.give_back(self.turns.now.text)

    # What ends one

    async def action_stop(self) -> None:
        self._branches.leave_edit()
        if self._switching is not None:
            self._cancelled.set()
        if self.turns.now.state == "waiting":
            await self._transcript.note("(not sent)", "footer")
            self._give_back()
        elif self.turns.now.state == "running":
            self._status.doing("stopping")
            self._stop_engine()

    def _stop_engine(self) -> None:
        self.turns.now.stop.set()
        if self.chat is not None:
            self.chat.stop()

    async def action_new_chat(self) -> None:
        await self.when_idle(self._clear)

    async def when_idle(self, act: Callable[[], Awaitable[None]]) -> None:
        """Stop what is going on, then act."""
        if self.turns.now.state == "running":
            self._after_turn = act
        await self.action_stop()
        if self.idle:
            await act()

    async def _clear(self) -> None:
        if self.chat is not None:
            self.chat.clear()
        self.recorder.new()
        await self._transcript.clear()
        self.conversation_changed()

    def conversation_changed(self) -> None:
        """Show the figures of what is now the conversation."""
        self._after_turn = None
        self.turns.change()
        self._show_figures()

    def _hint(self, text: str) -> None:
        self.notify(text, timeout=HINT_SECONDS)
