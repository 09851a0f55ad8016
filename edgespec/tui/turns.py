"""The turns of the conversation that is read, and what their figures add up to."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

from edgespec.conversations.conversation import Entry
from edgespec.conversations.figures import marks_of, to_answer
from edgespec.conversations.recorder import Recorder
from edgespec.decoding.stats import Extra, Round, Stats
from edgespec.tui.baseline import Baseline
from edgespec.tui.engine import Engine
from edgespec.tui.turn import Turn

_EXTRAS: dict[str, Extra] = {"b": "bonus", "c": "correction", "p": "plain"}


class Turns:
    """`now`: the turn that waits for the model, runs, or was the last. `total`: of all turns on this branch.
    `baseline`: since the model is open, in all conversations."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._live: dict[int, Turn] = {}
        self.now = Turn(state="ended")
        self.total = Stats()
        self.baseline = Baseline()

    def ask(self, text: str) -> None:
        """Keep a question that waits for its answer."""
        self.now = Turn(text, state="waiting")
        self._recorder.begin(text)
        if (leaf := self._recorder.conversation.leaf) is not None:
            self._live[leaf] = self.now

    def add(self, done: Round, elapsed_ms: float) -> None:
        """Count a round of the turn that runs, which was there `elapsed_ms` after its message was sent."""
        self.now.add(done, elapsed_ms)
        self.total.add(done)
        self.baseline.add(done, monotonic())

    def change(self) -> None:
        """The recorder has another conversation now, or another branch."""
        talk = self._recorder.conversation
        self.now, self.total = Turn(state="ended"), Stats()
        self._live = {id_: turn for id_, turn in self._live.items() if id_ in talk.entries}
        for entry in talk.path():
            if (answer := to_answer(entry)) is not None:
                self.total.merge(answer.stats)

    def told(self, chat: Engine | None) -> tuple[list[Turn], int]:
        """All turns of the conversation, in the order of their time, and which of them ends the branch that is read."""
        talk = self._recorder.conversation
        answers = sorted((e for e in talk.entries.values() if e.role == "assistant"), key=lambda e: e.id)
        turns = [self._live.get(e.id) or kept_turn(e, _question(e, talk.entries), chat) for e in answers]
        return turns, next((n for n, e in enumerate(answers) if e.id == talk.leaf), len(answers) - 1)


def kept_turn(entry: Entry, question: str, chat: Engine | None) -> Turn:
    """A turn of an earlier time as far as it was kept: its figures, and where each token came from."""
    answer, marks = to_answer(entry), marks_of(entry)
    stats = Stats(emitted=len(entry.ids)) if answer is None else answer.stats
    turn = Turn(question, state="ended", answer=answer, stats=stats)
    if len(marks) < len(entry.ids) or not entry.ids:
        turn.note = "Where its tokens came from was not kept: it broke off, or an earlier version wrote it."
    elif chat is None or chat.tokenizer_sha256 != entry.tokenizer:
        turn.note = f"Its tokens can only be read while a model with the tokenizer of {entry.model} is open."
    else:
        turn.note = "From an earlier time; what was rejected was not kept."
        turn.decode, turn.rounds = chat.token_bytes, list(_rounds(entry.ids, marks))
    return turn


def _question(answer: Entry, entries: dict[int, Entry]) -> str:
    return "" if answer.parent is None else entries[answer.parent].text


def _rounds(ids: tuple[int, ...], marks: str) -> Iterator[Round]:
    """The rounds that gave `ids`, as far as the `marks` tell."""
    start = 0
    for end, mark in enumerate(marks[: len(ids)], 1):
        if mark != "a" or end == len(ids):
            tokens, extra = ids[start:end], _EXTRAS.get(mark)
            accepted = len(tokens) - (extra is not None)
            yield Round(tokens, tokens[:accepted], accepted, accepted, extra, "", 0.0, 0.0, 0.0)
            start = end
