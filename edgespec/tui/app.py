"""What keys and commands do. Screens are imported when they are opened: the first one does not wait for the others."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from time import monotonic
from typing import Any, ClassVar

from textual import on
from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from edgespec import commands
from edgespec.errors import UsageError
from edgespec.tui.body import Body
from edgespec.tui.messages import Noticed, QuestionsRead
from edgespec.tui.prompt import Prompt
from edgespec.tui.talk import TalkApp

QUIT_SECONDS = 3.0
"""A second Ctrl+C within this time quits."""

NOTICE_SECONDS = 10.0
"""How long something stays that a user should know."""


class EdgespecApp(TalkApp):
    """A chat in the terminal."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", show=False, id="stop"),
        Binding("ctrl+n", "new_chat", "New chat", id="new-chat"),
        Binding("ctrl+o", "conversations", "Chats", id="conversations"),
        Binding("ctrl+r", "regenerate", "Answer again", show=False, id="regenerate"),
        Binding("alt+up", "edit_question", "Edit the last question", show=False, id="edit"),
        Binding("alt+left", "walk(-1)", "The branch before", show=False, id="branch-before"),
        Binding("alt+right", "walk(1)", "The branch after", show=False, id="branch-after"),
        Binding("ctrl+q", "quit", "Quit", priority=True, id="quit"),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
        Binding("f1", "help", "Help", priority=True, id="help"),
        Binding("f2", "command('model')", "Models", id="models"),
        Binding("f3", "tokens", "Tokens", id="tokens"),
        Binding("f4", "statistics", "Statistics", show=False, id="statistics"),
        Binding("f5", "command('set')", "Settings", id="settings"),
        Binding("f8", "copy(False)", "Copy the answer", show=False, id="copy-answer"),
        Binding("f9", "copy(True)", "Copy the last code block", show=False, id="copy-code"),
        Binding("ctrl+p", "command_palette", "palette", show=False, priority=True, id="palette"),
        Binding("tab", "complete", show=False, priority=True),
    ]

    _interrupted_at = float("-inf")

    @on(Prompt.Submitted)
    async def _submitted(self, message: Prompt.Submitted) -> None:
        try:
            said = commands.parse(message.text)
        except UsageError as error:
            self._prompt.give_back(message.text)
            self._hint(str(error))
            return
        if isinstance(said, commands.Call):
            await self.slash.run(said.command.name, said.argument)
            return
        if not self.idle:
            self._prompt.give_back(message.text)
            self._hint("One message at a time. Esc stops this one.")
            return
        await self._branches.before_sending()
        await self.ask(said)

    @on(Prompt.Changed)
    def _typed(self, event: Prompt.Changed) -> None:
        if event.text_area is self._prompt:
            self._completion.offer(self._prompt.text)

    @on(Noticed)
    def _noticed(self, message: Noticed) -> None:
        self.notify(message.text, timeout=NOTICE_SECONDS)

    @on(QuestionsRead)
    def _questions_read(self, message: QuestionsRead) -> None:
        self._prompt.recall.begin_with(message.texts)

    def action_complete(self) -> None:
        self._prompt.clear()
        self._prompt.insert(self._completion.ways[0])

    async def action_command(self, name: str) -> None:
        await self.slash.run(name)

    def action_help(self) -> None:
        from edgespec.tui.help import HelpScreen, help_for

        if isinstance(self.screen, HelpScreen):
            self.screen.dismiss(None)
        else:
            self.push_screen(help_for(self.screen))

    def action_context(self) -> None:
        from edgespec.tui.context import ContextScreen

        if self.chat is not None:
            self.push_screen(ContextScreen(self.chat))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        for command in commands.COMMANDS.values():
            run = partial(self.slash.run, command.name)
            yield SystemCommand(command.title, f"{command.help} /{command.name}", run)
        yield SystemCommand("Theme", "Choose colours; kept for the next start.", self.action_change_theme)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "complete":
            return self._prompt.has_focus and bool(self._completion.ways)
        return action != "stop" or not self.idle or self._branches.editing or self._switching is not None

    def action_copy(self, code: bool) -> None:
        if text := self._transcript.copyable(code=code):
            self._copy(text)
        else:
            self._hint("There is no code to copy." if code else "There is no answer to copy.")

    @on(Body.CodeChosen)
    def _code_chosen(self, message: Body.CodeChosen) -> None:
        self._copy(message.code)

    def _copy(self, text: str) -> None:
        self.copy_to_clipboard(text)
        self._hint(f"Copied {len(text):,} characters, if this terminal allows it.")

    def action_tokens(self) -> None:
        from edgespec.tui.token_view import TokenView

        turns, at = self.turns.told(self.chat)
        if turns:
            self.push_screen(TokenView(turns, at))
        else:
            self._hint("Nothing has been answered yet.")

    def action_statistics(self) -> None:
        from edgespec.tui.statistics import Statistics

        self.push_screen(Statistics(self.turns.told(self.chat)[0], self.chat))

    def action_conversations(self, words: str = "") -> None:
        self._branches.choose(words)

    def action_save(self, path: str) -> None:
        self._branches.save(path)

    async def action_regenerate(self) -> None:
        await self._branches.ask_again()

    def action_edit_question(self) -> None:
        self._branches.edit()

    async def action_walk(self, step: int) -> None:
        await self._branches.walk(step)

    async def action_interrupt(self) -> None:
        """Ctrl+C copies what is selected; else it stops, and quits when pressed again."""
        selected = self.screen.get_selected_text() or self._prompt.selected_text
        if selected:
            self.copy_to_clipboard(selected)
            return
        if monotonic() - self._interrupted_at < QUIT_SECONDS:
            self.exit()
            return
        self._interrupted_at = monotonic()
        await self.action_stop()
        self._hint("Press Ctrl+C again to quit.")

    def action_follow(self) -> None:
        self._transcript.follow()

    async def action_scroll_transcript(self, pages: int) -> None:
        if pages < 0 and self._transcript.scroll_y <= 0:
            await self._transcript.tell_earlier()
        elif pages < 0:
            self._transcript.scroll_page_up(animate=False)
        else:
            self._transcript.scroll_page_down(animate=False)
