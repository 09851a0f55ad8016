"""What the workers tell the app. Nothing else crosses from their threads to the screen."""

from __future__ import annotations

from collections.abc import Sequence

from textual.message import Message

from edgespec.chat.events import Answer, PromptProgress
from edgespec.errors import EdgespecError
from edgespec.tui.engine import Engine


class Noticed(Message):
    """Something that the user should know, such as that a conversation is not saved."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


class LoadProgress(Message):
    """The load is at `stage`, `fraction` (0..1) of it done."""

    def __init__(self, stage: str, fraction: float) -> None:
        super().__init__()
        self.stage = stage
        self.fraction = fraction


class Loaded(Message):
    """The model can answer. `problem`: why it is the one that was open before, and not the one asked for."""

    def __init__(self, chat: Engine, problem: EdgespecError | None = None) -> None:
        super().__init__()
        self.chat = chat
        self.problem = problem


class LoadFailed(Message):
    """There is no model; sending a message tries again."""

    def __init__(self, error: EdgespecError) -> None:
        super().__init__()
        self.error = error


class PromptRead(Message):
    """Prefill went on."""

    def __init__(self, progress: PromptProgress) -> None:
        super().__init__()
        self.progress = progress


class RoundsArrived(Message):
    """There are rounds of the turn to be shown. Only said while the screen does not look by itself."""


class TurnDone(Message):
    """The answer is complete, or was stopped."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


class TurnFailed(Message):
    """The answer ended with an error."""

    def __init__(self, error: EdgespecError) -> None:
        super().__init__()
        self.error = error


class QuestionsRead(Message):
    """What was said in earlier conversations, the latest behind."""

    def __init__(self, texts: Sequence[str]) -> None:
        super().__init__()
        self.texts = texts
