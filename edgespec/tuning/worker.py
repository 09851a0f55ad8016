"""One set of settings in a process of its own: a process can size its thread pool only once.

The process is given the settings as JSON on its command line, and then a JSON object a line on stdin; it answers each
with one on stdout, the first when the model is ready. It ends with its stdin.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import psutil

from edgespec.benchmark import Prompt
from edgespec.chat.events import Answer
from edgespec.chat.session import Chat, Settings
from edgespec.engine import Resources, open_chat
from edgespec.errors import ContextFullError, EdgespecError
from edgespec.profile import Tuned
from edgespec.runtime.device import DeviceChoice

_WARM_UP = Prompt("warm-up", "", ("Count from one to twenty.",))
_WARM_UP_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings to try. `model` and `draft` as `open_chat` takes them."""

    model: str
    threads: int
    draft: str
    draft_max: int

    @property
    def settings(self) -> Tuned:
        return Tuned(self.threads, self.draft, self.draft_max)


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens of an answer, or of several, and the milliseconds that decoding them took."""

    tokens: int
    ms: float


class CandidateError(Exception):
    """Settings that cannot run, with the reason as a sentence."""


class Worker:
    """The process that runs `candidate`; `close` ends it."""

    def __init__(self, candidate: Candidate, device: DeviceChoice) -> None:
        command = [sys.executable, "-m", "edgespec.tuning.worker", json.dumps({**asdict(candidate), "device": device})]
        # A session of its own: Ctrl-C is for the process that asked, which then closes this one.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        try:
            self.memory = int(self._receive()["memory"])
            """Bytes resident once the model is loaded."""
        except BaseException:
            self.close()
            raise

    def run(self, prompt: Prompt, max_tokens: int) -> Run:
        """Answer each turn of a prompt, in a conversation of its own. Raises: CandidateError."""
        assert self._process.stdin is not None  # Popen was asked for it
        try:
            self._process.stdin.write(json.dumps({"turns": prompt.turns, "max_tokens": max_tokens}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise CandidateError("its process ended") from error
        return Run(**self._receive())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # Popen was asked for it
        line = self._process.stdout.readline()
        if not line:
            raise CandidateError("its process ended; there may be too little memory for it")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise CandidateError(reply["error"])
        return reply


def _serve(settings: dict[str, Any]) -> None:
    try:
        chat = _open(Candidate(**{name: settings[name] for name in Candidate.__slots__}), settings["device"])
        _answer(chat, _WARM_UP.turns, _WARM_UP_TOKENS)
        _reply({"memory": psutil.Process().memory_info().rss})
        for line in sys.stdin:
            request = json.loads(line)
            _reply(asdict(_answer(chat, request["turns"], request["max_tokens"])))
    except EdgespecError as error:
        _reply({"error": str(error)})


def _open(candidate: Candidate, device: DeviceChoice) -> Chat:
    return open_chat(
        candidate.model,
        draft=candidate.draft,
        settings=Settings(draft_max=candidate.draft_max),
        resources=Resources(threads=candidate.threads, device=device),
        offline=True,
    )


def _answer(chat: Chat, turns: Sequence[str], max_tokens: int) -> Run:
    """Turns from the first that does not fit the context on are left out."""
    chat.use(chat.policy, replace(chat.settings, max_tokens=max_tokens))
    chat.clear()
    tokens, ms = 0, 0.0
    try:
        for turn in turns:
            for event in chat.send(turn):
                if isinstance(event, Answer):
                    tokens, ms = tokens + len(event.tokens), ms + event.predicted_ms
    except ContextFullError:
        pass
    return Run(tokens, ms)


def _reply(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
