"""The conversation that goes on: what is said in it is kept while it is said."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING, Protocol
from weakref import ref

from edgespec.chat.conversation import Message
from edgespec.chat.events import Answer, Event, TextDelta
from edgespec.conversations import FILE
from edgespec.conversations.conversation import Conversation, Entry, title_of
from edgespec.conversations.figures import to_figures
from edgespec.conversations.writer import Job, Writer

if TYPE_CHECKING:
    from edgespec.conversations.store import ConversationStore


class Speaker(Protocol):
    """Who answers. `edgespec.chat.session.Chat` does."""

    messages: list[Message]

    @property
    def model(self) -> str: ...

    @property
    def draft(self) -> str | None: ...

    @property
    def tokenizer_sha256(self) -> str: ...

    def send(self, text: str) -> Iterator[Event]: ...


class Recorder:
    """Holds the conversation that goes on, and keeps it in `directory`; without one it ends with the program.

    For each message: `begin` when it is sent, then `answer`, or `take_back` if it never was. While `answer` runs only
    `saved`, `keep`, `flush` and `close` may be used. `notice` hears, from any thread, what a user should know.
    """

    def __init__(self, directory: Path | None, notice: Callable[[str], None] = lambda _: None) -> None:
        self.directory = directory
        self.conversation = Conversation()
        self._writer = None if directory is None else Writer(directory, notice)
        self._told: Callable[[], Speaker | None] = _nobody  # who knows what was said up to the leaf
        self._resumed = False
        self._trash: list[str] = []
        self._idle = Flag()
        self._idle.set()

    @property
    def saved(self) -> bool:
        """False if the last attempt to keep something failed. True where nothing is to be kept."""
        return self._writer is None or self._writer.saved

    def begin(self, text: str) -> None:
        """`text` is sent: keep it, with room for its answer. The same text in the same place is the same question."""
        talk = self.conversation
        asked = next((e for e in talk.children(talk.leaf) if e.role == "user" and e.text == text), None)
        if asked is None:
            asked = Entry(talk.new_id(), talk.leaf, "user", text, time.time())
            talk.add(asked)
        room = Entry(talk.new_id(), asked.id, "assistant", "", time.time())
        talk.add(room)
        talk.leaf = room.id
        talk.title = talk.title or title_of(text)
        self._keep([*talk.entries.values()])  # all: something may not have been kept before

    def answer(self, speaker: Speaker, text: str, *, keep_each: bool = True) -> Generator[Event]:
        """What `speaker.send(text)` yields, kept as it comes, or without `keep_each` when `keep` is called. What ends
        with an error before anything was said is taken back. The speaker is told first what was said on this branch, if
        it does not know."""
        self._idle.clear()
        if self._told() is not speaker:
            self._tell(speaker, self.conversation.path()[:-2])
        leaf = self.conversation.leaf
        if leaf is None:
            raise RuntimeError("a message is answered that was not begun")
        entry = replace(
            self.conversation.entries[leaf],
            model=speaker.model,
            draft=speaker.draft,
            tokenizer=speaker.tokenizer_sha256,
            system=_system(speaker),
        )
        last: Answer | None = None
        marks = ""
        try:
            for event in speaker.send(text):
                if isinstance(event, Answer):
                    last = event  # handed on when the speaker has the message, and the file
                    continue
                if isinstance(event, TextDelta):
                    marks += event.round.marks
                    entry = replace(entry, text=entry.text + event.text, ids=entry.ids + event.round.tokens)
                    self.conversation.add(entry)
                    if keep_each:
                        self.keep()
                yield event
        finally:
            self._finish(entry, speaker, last, marks)
            self._idle.set()
        if last is not None:
            yield last

    def keep(self) -> None:
        """Keep what has come of the answer. From any thread, before it is shown; nothing once it has ended, since it
        is kept then."""
        if (leaf := self.conversation.leaf) is not None:
            entry = self.conversation.entries[leaf]
            if entry.finish is None:
                self._keep([entry], passing=True)

    def take_back(self) -> None:
        """The last message was not answered at all, so it has not been said."""
        talk = self.conversation
        asked, room = talk.path()[-2:]
        gone = [room.id] if len(talk.children(asked.id)) > 1 else [room.id, asked.id]
        for id_ in gone:
            del talk.entries[id_]
        talk.leaf = asked.parent
        if not talk.entries:
            talk.title = ""
        kept = replace(talk)
        self._put(lambda store: store.forget(kept, gone))

    def rewind(self) -> str | None:
        """Go back to before the last question, and return it; what is said next begins a branch. None: nothing was."""
        path = self.conversation.path()
        if not path:
            return None
        asked = path[-2]
        self.conversation.leaf = asked.parent
        self._told = _nobody
        return asked.text

    def walk(self, step: int) -> bool:
        """Read the branch `step` further on; False if there is none."""
        talk = self.conversation
        ends = talk.branches()
        at = ends.index(talk.leaf) + step if talk.leaf in ends else len(ends) - 1
        if not 0 <= at < len(ends) or ends[at] == talk.leaf:
            return False
        talk.leaf = ends[at]
        self._told = _nobody
        self._keep([])
        return True

    def rename(self, id_: str, title: str) -> None:
        """Give a conversation another title."""
        if id_ == self.conversation.id:
            self.conversation.title = title
        self._put(lambda store: store.rename(id_, title))

    def trash(self, id_: str) -> None:
        """Delete a conversation other than this one: it can be brought back until `close`."""
        self._trash.append(id_)
        self._put(lambda store: store.trash(id_))

    def bring_back(self, id_: str) -> None:
        self._trash.remove(id_)
        self._put(lambda store: store.restore(id_))

    def open(self, conversation: Conversation) -> None:
        """Go on with an earlier conversation, under the system message that it had."""
        self.conversation = conversation
        self._told, self._resumed = _nobody, True

    def new(self) -> None:
        self.conversation = Conversation()
        self._told, self._resumed = _nobody, False

    def questions(self, heard: Callable[[Sequence[str]], object], most: int = 200) -> None:
        """`heard` is told, in a thread, what the user said last in all conversations, the latest behind."""

        def read(store: ConversationStore) -> None:
            heard(store.questions(most))

        if self.directory is not None and (self.directory / FILE).exists():
            self._put(read)

    def flush(self) -> None:
        """Wait until what was said is in the file, or could not be put there."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Keep what is left and empty the trash; waits a little for an answer that is being stopped."""
        self._idle.wait(5.0)
        if self._trash:
            self._put(lambda store: store.delete(self._trash))
        if self._writer is not None:
            self._writer.close()

    def tell(self, speaker: Speaker) -> None:
        """Have `speaker` know what was said, as `answer` otherwise would: what changes its messages now counts."""
        self._tell(speaker, self.conversation.path())

    def _tell(self, speaker: Speaker, path: Sequence[Entry]) -> None:
        system = path[-1].system if self._resumed and path else _system(speaker)
        messages = [] if system is None else [Message("system", system)]
        for entry in path:
            known = entry.role == "assistant" and not entry.cut and entry.tokenizer == speaker.tokenizer_sha256
            messages.append(Message(entry.role, entry.text, entry.ids if known else None))
        speaker.messages = messages
        self._told, self._resumed = ref(speaker), False  # weak: a model that is closed gives its memory back

    def _finish(self, entry: Entry, speaker: Speaker, last: Answer | None, marks: str) -> None:
        if last is None and not entry.ids:
            self.take_back()
            return
        if last is None:
            entry = replace(entry, finish="failed")
        else:
            cut = speaker.messages[-1].ids is None
            ended = replace(entry, text=last.text, ids=last.tokens, cut=cut, finish=last.finish_reason)
            entry = replace(ended, figures=to_figures(last, marks))
        self.conversation.add(entry)
        self._keep([entry])

    def _keep(self, entries: Sequence[Entry], *, passing: bool = False) -> None:
        talk = replace(self.conversation)  # as it is now

        def keep(store: ConversationStore) -> None:
            store.keep(talk, entries)
            if not passing:
                store.settle()

        self._put(keep, passing=passing)

    def _put(self, job: Job, *, passing: bool = False) -> None:
        if self._writer is not None:
            self._writer.put(job, passing=passing)


def _system(speaker: Speaker) -> str | None:
    return next((message.content for message in speaker.messages if message.role == "system"), None)


def _nobody() -> None:
    """Stands for a reference to a speaker who is gone."""
