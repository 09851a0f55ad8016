"""Messages to the token ids of a prompt. The template's own text and the messages' are encoded apart."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgespec.chat import jinja_render
from edgespec.chat.conversation import Message
from edgespec.chat.screen import printable
from edgespec.chat.tokenizer import Tokenizer
from edgespec.errors import ModelError

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""For a model that brings no template but knows ChatML's tokens."""

KNOWN_TEMPLATES = frozenset(
    {
        "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788",  # SmolLM2-135M-Instruct
    }
)
"""SHA-256 of templates that were read by a person and run in this process; any other runs in a process of its own."""

_SECONDS = 1.7

# What stands for a message's text: no change of case, trim, split at words or JSON quoting alters it. There is a space
# before or after it if the text has one there, and it is gone if the template trims.
_OPEN, _CLOSE, _SPACE_BEFORE, _SPACE_AFTER = "\U000f0000", "\U000f0001", "\u1680", "\u205f"
_STAND_IN = re.compile(f"({_SPACE_BEFORE}?){_OPEN}([0-9]{{1,6}}){_CLOSE}({_SPACE_AFTER}?)")


class ChatTemplate:
    """A model's chat template, at work on messages.

    The template is rendered with a stand-in for each message's text. What it wrote itself is encoded with control
    tokens, what a message says is encoded as plain text: `<|im_end|>` in a message ends nothing. So a template can
    trim a text, move it, repeat it or wrap it, but not look into it; one that drops or cuts a text is refused, as
    nothing that was said may vanish in silence.

    `source` None is ChatML. A bundle's template sets `bos_token` and `eos_token` itself where it uses them; elsewhere
    they are empty.
    A template that is not in KNOWN_TEMPLATES is rendered in a process of its own, with limits on time and memory.

    Raises: ModelError if there is no template and the tokenizer does not know ChatML's tokens.
    """

    def __init__(self, source: str | None, tokenizer: Tokenizer) -> None:
        if source is None and None in (tokenizer.control_id("<|im_start|>"), tokenizer.control_id("<|im_end|>")):
            raise ModelError("The model has no chat template, so it cannot chat: choose one tuned for chat.")
        self._source = CHATML if source is None else source
        self._trusted = (
            source is None or hashlib.sha256(source.encode("utf-8", "replace")).hexdigest() in KNOWN_TEMPLATES
        )
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, path: Path | None, tokenizer: Tokenizer) -> ChatTemplate:
        """The template in a file; None is ChatML. Raises: as the class."""
        return cls(None if path is None else path.read_text(encoding="utf-8"), tokenizer)

    def render_ids(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """The ids of `messages`, and of the header of the answer to come unless told otherwise.

        Where a message has ids they are used as they are. If they end with the control token that the template writes
        next, it appears once. So the ids of a conversation begin with those of the turn before plus its answer's,
        provided that the template opens an answer of the past like one to come.

        Raises: ModelError if the template fails, exceeds its limits, or does not render every message.
        """
        variables: dict[str, Any] = {
            "messages": [{"role": m.role, "content": _stand_in(i, m)} for i, m in enumerate(messages)],
            "add_generation_prompt": add_generation_prompt,
            "tools": None,
            "documents": None,
            "bos_token": "",
            "eos_token": "",
        }
        return self._assemble(self._render(variables), messages)

    def _render(self, variables: dict[str, Any]) -> str:
        if not self._trusted:
            return _render_apart(self._source, json.dumps(variables), int(time.time() // 60))
        try:
            return jinja_render.render(self._source, variables)
        except Exception as error:
            raise _unusable(str(error)) from error

    def _assemble(self, rendered: str, messages: Sequence[Message]) -> list[int]:
        owns, marks = _parts(rendered)
        missing = {i for i, message in enumerate(messages) if _OPEN in _stand_in(i, message)}
        if any(index >= len(messages) for _, index, _ in marks):
            raise _unusable("it writes a message that does not exist")
        if missing - {index for _, index, _ in marks} or any(mark in own for own in owns for mark in (_OPEN, _CLOSE)):
            raise _unusable("it leaves out a message or a part of it")
        # Tokenizers join a space with the word behind it: one before a message's text is encoded together with that.
        spaced = [
            own.endswith(" ") and messages[index].ids is None for own, (_, index, _) in zip(owns, marks, strict=False)
        ]
        owns = [own[:-1] if space else own for own, space in zip(owns, [*spaced, False], strict=True)]
        ids = self._own_ids(owns[0], [])
        for (before, index, after), space, own in zip(marks, spaced, owns[1:], strict=True):
            message = messages[index]
            if message.ids is not None:
                ids += self._answer_ids(message.ids, own)
            else:
                text = message.content if before else message.content.lstrip()
                text = " " * space + (text if after else text.rstrip())
                ids += self._tokenizer.encode(text, *ids[-1:])
            ids += self._own_ids(own, ids[-1:])
        return ids

    def _own_ids(self, own: str, after: list[int]) -> list[int]:
        return self._tokenizer.encode_template(own, *after) if own else []

    def _answer_ids(self, ids: tuple[int, ...], own: str) -> list[int]:
        """Without a control token at the end with which the template's own text begins: it then appears once."""
        doubled = ids and self._own_ids(own, [*ids[-1:]])[:1] == [*ids[-1:]] and self._tokenizer.is_control(ids[-1])
        return list(ids[:-1] if doubled else ids)


def _parts(rendered: str) -> tuple[list[str], list[tuple[bool, int, bool]]]:
    """What the template wrote itself, and between those, which message's text is to stand there, and whether the space
    before and after it is."""
    own, *rest = _STAND_IN.split(rendered)
    marks = [
        (bool(before), int(number), bool(after))
        for before, number, after in zip(rest[::4], rest[1::4], rest[2::4], strict=True)
    ]
    return [own, *rest[3::4]], marks


def _stand_in(index: int, message: Message) -> str:
    """What the template sees as the content of message `index`; an empty one it may see as it is."""
    if message.ids is not None:
        return f"{_OPEN}{index}{_CLOSE}" if message.ids else ""
    text = message.content
    if not text or text.isspace():
        return text
    before = _SPACE_BEFORE if text[0].isspace() else ""
    after = _SPACE_AFTER if text[-1].isspace() else ""
    return f"{before}{_OPEN}{index}{_CLOSE}{after}"


@lru_cache(maxsize=16)
def _render_apart(source: str, variables: str, _minute: int) -> str:
    """Kept, as a process takes long to start and conversations of one form render the same: until the next minute,
    because a template may tell the time."""
    request = json.dumps({"source": source, "variables": json.loads(variables)}).encode() + b"\n"
    # By its file, and without its folder on the path: the worker imports Jinja and nothing of ours.
    command = [sys.executable, "-P", jinja_render.__file__]
    try:
        worker = subprocess.run(
            command, input=request, capture_output=True, timeout=_SECONDS, check=False, process_group=0
        )
    except subprocess.TimeoutExpired as error:
        raise _unusable("it does not come to an end") from error
    except OSError as error:
        raise _unusable(f"no process for it can be started, {error.strerror}") from error
    try:
        reply = json.loads(worker.stdout)
    except ValueError as error:
        raise _unusable("it exceeds the limits on time or memory") from error
    if "error" in reply:
        raise _unusable(reply["error"])
    return reply["text"]


def _unusable(cause: str) -> ModelError:
    cause = " ".join(printable(cause).split())[:200].rstrip(".")
    return ModelError(f"The model's chat template cannot be used: {cause}. Choose another model.")
