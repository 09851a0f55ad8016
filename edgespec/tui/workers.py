"""What runs in threads. It touches no widget: all it does to the app is to post messages."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable
from threading import Event as Flag
from threading import get_native_id
from time import perf_counter

from textual.message import Message

from edgespec.chat.events import Answer, TextDelta
from edgespec.conversations.recorder import Recorder
from edgespec.errors import CancelledError, EdgespecError, GenerationError, OutOfMemoryError
from edgespec.tui.engine import Engine, Load, Progress
from edgespec.tui.messages import Loaded, LoadFailed, LoadProgress, PromptRead, RoundsArrived, TurnDone, TurnFailed
from edgespec.tui.turn import Turn

Post = Callable[[Message], object]

_NICENESS = 5


def give_way() -> None:
    """Have the calling thread, and those that it begins, wait while the screen is painted: that takes a tenth of a
    core, and would otherwise wait for those who compute. Only Linux has niceness by thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, get_native_id(), os.getpriority(os.PRIO_PROCESS, os.getpid()) + _NICENESS)


def set_apart() -> None:
    """Set what a load has left apart from what is collected later: to look through all of it holds up every thread,
    the one that paints too, for 70 ms and more."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def open_chat(load: Load, cancelled: Flag, post: Post) -> None:
    """Run `load`; once `cancelled` is set its next report of progress ends it."""
    give_way()  # ONNX Runtime's threads begin here
    importlib.import_module("edgespec.tui.document")  # so that the first answer does not wait for it
    try:
        chat = load(progress_for(cancelled, post))
    except Exception as error:
        post(LoadFailed(explain(error, "The model did not load")))
    else:
        post(Loaded(chat))


def progress_for(cancelled: Flag, post: Post) -> Progress:
    """Posts LoadProgress; raises CancelledError once `cancelled` is set."""
    posted = ("", 0)

    def progress(stage: str, fraction: float) -> None:
        nonlocal posted
        if cancelled.is_set():
            raise CancelledError("Loading was stopped.")
        # A download reports every block; the screen shows whole percents.
        if posted != (stage, int(fraction * 100)):
            posted = (stage, int(fraction * 100))
            post(LoadProgress(stage, fraction))

    return progress


def run_turn(chat: Engine, recorder: Recorder, turn: Turn, post: Post) -> None:
    """Send the turn's message, keep and post what happens; the last message is TurnDone or TurnFailed."""
    give_way()
    started = perf_counter()
    try:
        for event in recorder.answer(chat, turn.text, keep_each=False):
            if isinstance(event, Answer):
                post(TurnDone(event))
                continue
            if turn.stop.is_set():
                # A stop that came before `send` had begun was heard by nobody.
                chat.stop()
            if isinstance(event, TextDelta):
                if turn.arrive(event, (perf_counter() - started) * 1e3):
                    post(RoundsArrived())
            else:
                post(PromptRead(event))
    except Exception as error:
        post(TurnFailed(explain(error, "The answer broke off")))


def explain(error: Exception, what: str) -> EdgespecError:
    """What a person is told of `error`, an exception that ended `what`."""
    if isinstance(error, EdgespecError):
        return error
    if isinstance(error, MemoryError):
        return OutOfMemoryError(f"{what}: memory ran out. Choose a smaller model or a shorter context.")
    return GenerationError(
        f"{what} because of a fault in edgespec ({type(error).__name__}: {error}). Please report it."
    )
