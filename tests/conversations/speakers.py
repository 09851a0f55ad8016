"""A speaker whose answers a test writes down, with the rounds that they took."""

from __future__ import annotations

from collections.abc import Iterator

from edgespec.chat.conversation import Message
from edgespec.chat.events import Answer, Event, PromptProgress, TextDelta
from edgespec.conversations.conversation import Conversation
from edgespec.conversations.recorder import Recorder
from edgespec.decoding.stats import FinishReason, Round, Stats


def make_round(*tokens: int) -> Round:
    """A round that accepted all but the last of its tokens."""
    proposed = tokens[:-1]
    extra = "bonus" if proposed else "plain"
    arm = "ngram" if proposed else "plain"
    return Round(tokens, proposed, len(proposed), len(proposed), extra, arm, 0.5, 9.0, 10.0)


class Parrot:
    """Says each word of the message back, a round for each. `fails_after`: rounds before an error; `ends`: how it
    ends; `cut`: as if a stop string had cut the text."""

    model, draft, tokenizer_sha256 = "parrot", "ngram", "a" * 64

    def __init__(self, system: str | None = None) -> None:
        self.messages = [] if system is None else [Message("system", system)]
        self.heard: list[str] = []
        self.fails_after: int | None = None
        self.ends: FinishReason = "stop"
        self.cut = False

    def send(self, text: str) -> Iterator[Event]:
        self.heard.append(text)
        yield PromptProgress(3, 3)
        said, tokens, stats = "", [], Stats()
        for n, word in enumerate(text.split()):
            if n == self.fails_after:
                raise OSError("the parrot fell off its perch")
            done = make_round(n, n + 1)
            stats.add(done)
            said += f"{word} "
            tokens += done.tokens
            yield TextDelta(f"{word} ", done)
        if self.fails_after is not None and not tokens:
            raise OSError("the parrot sleeps")
        self.messages += [Message("user", text), Message("assistant", said, None if self.cut else tuple(tokens))]
        yield Answer(said, tuple(tokens), self.ends, 9, 3, 30.0, 45.5, 120.25, True, stats)


def say(recorder: Recorder, speaker: Parrot, *texts: str) -> Answer:
    """Say each text and return the last answer."""
    last: Event | None = None
    for text in texts:
        recorder.begin(text)
        *_, last = recorder.answer(speaker, text)
    assert isinstance(last, Answer)
    return last


def texts(conversation: Conversation) -> list[str]:
    return [entry.text.strip() for entry in conversation.path()]
