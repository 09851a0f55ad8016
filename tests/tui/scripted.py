"""A chat whose every event a test hands over, so that nothing depends on time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from queue import Queue
from threading import Event as Flag
from time import monotonic
from types import MappingProxyType

from textual.app import App
from textual.pilot import Pilot

from edgespec.chat.conversation import Message
from edgespec.chat.events import Answer, Event, PromptProgress, TextDelta
from edgespec.chat.session import Settings
from edgespec.conversations.recorder import Recorder
from edgespec.decoding.costs import Costs
from edgespec.decoding.stats import FinishReason, Round, Stats
from edgespec.tui.app import EdgespecApp
from edgespec.tui.engine import Load, Progress
from edgespec.tui.prompt import Prompt


def make_round(accepted: int = 2, tested: int = 3, proposed: int = 4, ms: float = 30.0) -> Round:
    """A round whose extra token is what its counts say."""
    extra = "plain" if not proposed else "correction" if accepted < tested else "bonus"
    return Round(
        tokens=tuple(range(accepted + 1)),
        proposed=tuple(range(proposed)),
        tested=tested,
        accepted=accepted,
        extra=extra,
        arm=f"ngram k={proposed}" if proposed else "plain",
        draft_ms=ms * 0.1,
        verify_ms=ms * 0.8,
        total_ms=ms,
    )


class ScriptedChat:
    """`tell`, `say`, `finish` and `fail` are the model; the app gets each event as soon as it is handed over."""

    model = "scripted-1b"
    draft: str | None = "ngram"
    device = "cpu"
    exact = True
    context_length = 2048
    context_used = 0
    tokenizer_sha256 = "5" * 64
    costs: Costs | None = None
    opens_thought = False
    words: Mapping[int, bytes] = MappingProxyType({})

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.settings = Settings()
        self.over = 0
        self.sent: list[str] = []
        self.told: list[list[str]] = []
        self.cleared = 0
        self.closed = False
        self.sending = Flag()
        self.idle = Flag()
        self.answers: list[Answer] = []
        self._stopped = False
        self._script: Queue[Event | FinishReason | Exception] = Queue()

    def token_bytes(self, token: int) -> bytes:
        return self.words.get(token, b"t%d " % token)

    def tell(self, event: Event) -> None:
        self._script.put(event)

    def say(self, text: str, r: Round | None = None) -> None:
        self.tell(TextDelta(text, r or make_round()))

    def finish(self, reason: FinishReason = "stop") -> None:
        self._script.put(reason)

    def fail(self, error: Exception) -> None:
        self._script.put(error)

    def send(self, text: str) -> Iterator[Event]:
        self.sent.append(text)
        self.told.append([message.content for message in self.messages])
        self._stopped = False
        self.idle.clear()
        self.sending.set()
        self.messages.append(Message("user", text))
        try:
            yield from self._play()
        finally:
            self.sending.clear()
            self.idle.set()

    def _play(self) -> Iterator[Event]:
        texts: list[str] = []
        tokens: list[int] = []
        stats = Stats()
        while True:
            match self._script.get(timeout=60):
                case TextDelta() as delta:
                    texts.append(delta.text)
                    tokens += delta.round.tokens
                    stats.add(delta.round)
                    self.context_used += len(delta.round.tokens)
                    yield delta
                case PromptProgress() | Answer() as event:
                    yield event
                case Exception() as error:
                    if not tokens:
                        self.messages.pop()
                    raise error
                case reason:
                    predicted_ms = stats.draft_ms + stats.verify_ms + stats.overhead_ms
                    answer = Answer(
                        text="".join(texts),
                        tokens=tuple(tokens),
                        finish_reason=reason,
                        prompt_tokens=20,
                        prompt_n=20,
                        prompt_ms=400.0,
                        ttft_ms=420.0,
                        predicted_ms=predicted_ms,
                        exact=True,
                        stats=stats,
                    )
                    self.answers.append(answer)
                    self.messages.append(Message("assistant", answer.text, answer.tokens))
                    yield answer
                    return

    def adjust(self, settings: Settings) -> None:
        self.settings = settings

    def excess(self, text: str, room: int = 1) -> int:
        return self.over

    def stop(self) -> None:
        if self.sending.is_set() and not self._stopped:
            self._stopped = True
            self.finish("cancelled")

    def clear(self) -> None:
        self.cleared += 1
        self.messages = []
        self.context_used = 0

    def close(self) -> None:
        self.closed = True


def app_for(chat: ScriptedChat, recorder: Recorder | None = None) -> EdgespecApp:
    """The app over a chat that is there at once."""

    def load(progress: Progress) -> ScriptedChat:
        return chat

    return EdgespecApp(load, recorder)


def loads(*steps: Callable[[Progress], ScriptedChat]) -> Load:
    """A load that does something else each time it is tried."""
    remaining = list(steps)
    return lambda progress: remaining.pop(0)(progress)


async def wait_until(pilot: Pilot[None], condition: Callable[[], object]) -> None:
    """Let the app work until `condition` holds; the deadline only bounds a failing test."""
    deadline = monotonic() + 20
    while not condition():
        if monotonic() > deadline:
            raise TimeoutError(f"the screen never got there:\n{screen_text(pilot.app)}")
        await pilot.pause(0.01)


def screen_text(app: App[None]) -> str:
    """What a person would read on the screen, line by line."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


async def wait_for_text(pilot: Pilot[None], text: str) -> None:
    await wait_until(pilot, lambda: text in screen_text(pilot.app))


async def ask(pilot: Pilot[None], text: str) -> None:
    """Write `text` and send it."""
    pilot.app.query_one(Prompt).insert(text)
    await pilot.press("enter")


async def answered(pilot: Pilot[None], turns: int) -> None:
    """Wait until so many answers are complete."""
    await wait_until(pilot, lambda: len(pilot.app.query("AnswerBlock > .footer")) == turns)
    await pilot.pause()


async def converse(pilot: Pilot[None], chat: ScriptedChat, *turns: tuple[str, str]) -> None:
    """Ask each question and have its answer given."""
    for question, answer in turns:
        before = len(chat.answers)
        await ask(pilot, question)
        chat.say(answer)
        chat.finish()
        await wait_until(pilot, lambda n=before: len(chat.answers) > n and idle(pilot))


def idle(pilot: Pilot[None]) -> bool:
    return isinstance(pilot.app, EdgespecApp) and pilot.app.idle
