"""Going back in a conversation: to ask again, to ask otherwise, to read another branch, to resume an earlier one."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgespec.conversations.conversation import Conversation, Entry
from edgespec.conversations.figures import footer
from edgespec.errors import UsageError
from edgespec.tui.prompt import Prompt
from edgespec.tui.status import Status
from edgespec.tui.transcript import Told, Transcript

if TYPE_CHECKING:
    from edgespec.tui.talk import TalkApp

EDITING = "editing your last message · Esc leaves it as it was"


class Branches:
    """Does so on the app's recorder and transcript, while no answer is being written. `editing`: the prompt holds the
    last question, and what is sent next takes its place."""

    def __init__(self, app: TalkApp) -> None:
        self.editing = False
        self._app = app

    async def ask_again(self) -> None:
        """The last question once more, in a branch of its own."""
        self.leave_edit()
        if self._may_go_back(self._app.recorder.conversation.path()):
            text = await self._rewind()
            await self._app.ask(text)

    def edit(self) -> None:
        """Put the last question into the prompt."""
        prompt = self._app.query_one(Prompt)
        if self.editing or not self._may_go_back(self._app.recorder.conversation.path()):
            return
        if prompt.text:
            self._hint("Send or clear what you are writing first.")
            return
        self.editing = True
        prompt.give_back(self._app.recorder.conversation.path()[-2].text)
        prompt.focus()
        self._app.query_one(Status).doing(EDITING)

    def leave_edit(self) -> None:
        """Nothing has been changed. What was written in the question's place stays in the prompt."""
        if self.editing:
            self.editing = False
            prompt = self._app.query_one(Prompt)
            if prompt.message == self._app.recorder.conversation.path()[-2].text:
                prompt.clear()
            self._app.query_one(Status).doing("")

    async def before_sending(self) -> None:
        """What is about to be sent stands in the edited question's place."""
        if self.editing:
            self.editing = False
            self._app.query_one(Status).doing("")
            await self._rewind()

    async def walk(self, step: int) -> None:
        """Read the branch `step` further on."""
        before = self._app.recorder.conversation.path()
        if self.editing or not self._may_go_back(self._app.recorder.conversation.entries):
            return
        if not self._app.recorder.walk(step):
            self._hint("There is no other branch on that side. Ctrl+R and Alt+Up begin one.")
            return
        after = self._app.recorder.conversation.path()
        same = sum(a is b for a, b in zip(before, after, strict=False))
        await self._retell(after, same // 2)

    def choose(self, words: str) -> None:
        """Show the conversations that have `words`, and go on with the one that is chosen."""
        from edgespec.tui.conversations import Conversations  # imports what the first screen does without

        recorder = self._app.recorder
        if recorder.directory is None:
            self._hint("No conversations are kept here: that has been switched off (history).")
            return

        async def chosen(conversation: Conversation | None) -> None:
            if conversation is not None and conversation.id != recorder.conversation.id:
                await self._app.when_idle(partial(self.open, conversation))
            self._app.show_heading()

        self._app.push_screen(Conversations(recorder, words), chosen)

    def save(self, path: str) -> None:
        """Write the conversation to a file."""
        from edgespec.conversations.export import save

        try:
            found = save(self._app.recorder.conversation, Path(path) if path else None)
        except UsageError as error:
            self._app.notify(str(error), severity="error")
        else:
            self._hint(f"Wrote {found}")

    async def open(self, conversation: Conversation) -> None:
        """Show an earlier conversation; what is sent next continues it."""
        if self._app.chat is not None:
            self._app.chat.clear()
        self._app.recorder.open(conversation)
        await self._retell(conversation.path(), 0)

    def compare(self) -> None:
        """Say so if the answer that has just ended is the one that its question had before."""
        talk = self._app.recorder.conversation
        answer = talk.path()[-1]
        if answer.finish == "cancelled":
            return
        if any(e.ids == answer.ids and e.id != answer.id for e in talk.children(answer.parent)):
            self._hint("The same answer: at temperature 0 it does not change. /set temperature 0.7 makes it vary.")

    def _may_go_back(self, to: Collection[object]) -> bool:
        if not self._app.idle:
            self._hint("Esc stops the answer first.")
        elif not to:
            self._hint("Nothing has been said here yet.")
        else:
            return True
        return False

    def _hint(self, text: str) -> None:
        self._app.notify(text)

    async def _rewind(self) -> str:
        text = self._app.recorder.rewind() or ""
        await self._app.query_one(Transcript).keep_turns(len(self._app.recorder.conversation.path()) // 2)
        return text

    async def _retell(self, path: list[Entry], kept: int) -> None:
        """Show `path`, of which the transcript already has the first `kept` turns."""
        transcript = self._app.query_one(Transcript)
        with self._app.batch_update():
            await transcript.keep_turns(kept)
            turns = zip(path[2 * kept :: 2], path[2 * kept + 1 :: 2], strict=True)
            await transcript.retell([Told(asked.text, told.text, self._footer(told)) for asked, told in turns])
        if self._app.chat is not None:
            self._app.recorder.tell(self._app.chat)
        self._app.conversation_changed()

    def _footer(self, entry: Entry) -> str:
        """As it was under the answer; and who gave it, if it was not the model that is here now."""
        here = None if self._app.chat is None else self._app.chat.model
        return footer(entry) if entry.model in (None, here) else f"{entry.model} · {footer(entry)}"
