"""A conversation as a document: Markdown for people, JSON for programs."""

from __future__ import annotations

import json
import os
import re
import time
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

from edgespec.chat.screen import printable
from edgespec.conversations.conversation import Conversation, Entry
from edgespec.conversations.figures import footer
from edgespec.errors import UsageError

Format = Literal["md", "json"]


def to_markdown(conversation: Conversation) -> str:
    """The branch that was read last, with the figures under its answers. Nothing in it would steer a terminal."""
    parts = [f"# {conversation.title}", f"*{when(conversation.created)}*"]
    system = None
    for entry in conversation.path():
        if entry.role == "user":
            parts.append(f"## You\n\n{entry.text}")
            continue
        if entry.system != system:
            system = entry.system
            parts.append(f"*System message:* {system or 'none'}")
        parts.append(f"## {entry.model or 'Answer'}\n\n{entry.text}\n\n*{footer(entry)}*")
    return printable("\n\n".join(parts) + "\n")


def to_json(conversation: Conversation) -> dict[str, Any]:
    """All branches: each message names its `parent`; `current` are those of the branch that was read last.

    Ids are strings, because they are larger than JavaScript's whole numbers.
    """
    current = {entry.id for entry in conversation.path()}
    entries = sorted(conversation.entries.values(), key=lambda e: e.id)
    return {
        "id": conversation.id,
        "title": conversation.title,
        "created": iso(conversation.created),
        "messages": [_message(entry) | {"current": entry.id in current} for entry in entries],
    }


def save(conversation: Conversation, path: Path | None = None) -> Path:
    """Write a new file, JSON if its name ends so, else Markdown; without a path, one named after the title in the
    folder that the program was started in. Returns where. Raises: UsageError.
    """
    if not conversation.entries:
        raise UsageError("Nothing has been said yet.")
    path = free_name(conversation) if path is None else path.expanduser()
    as_json = path.suffix.lower() == ".json"
    write_new(path, json.dumps(to_json(conversation), indent=2) + "\n" if as_json else to_markdown(conversation))
    return path


def free_name(conversation: Conversation) -> Path:
    """A Markdown file named after the title, in the folder that the program was started in, that is not there yet."""
    name = Path(file_name(conversation))
    numbered = (name.with_stem(f"{name.stem}-{n}") for n in count(2))
    return next(p for p in (name, *islice(numbered, 1000)) if not os.path.lexists(p)).absolute()


def write_new(path: Path, text: str) -> None:
    """Write a file that only the user can read. Raises: UsageError if there is one, or it cannot be written."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already; choose another name, or delete it.") from error
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be written ({cause}); choose another place.") from error


def file_name(conversation: Conversation) -> str:
    """A name for a Markdown file, of the title's words."""
    words = re.findall(r"\w+", conversation.title.lower())
    return "-".join(words)[:50].rstrip("-") + ".md" if words else "conversation.md"


def when(seconds: float) -> str:
    """Local date and time of seconds since the epoch, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def iso(seconds: float) -> str:
    """ISO 8601, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _message(entry: Entry) -> dict[str, Any]:
    said = {
        "id": str(entry.id),
        "parent": None if entry.parent is None else str(entry.parent),
        "role": entry.role,
        "text": entry.text,
        "time": iso(entry.time),
    }
    if entry.role == "user":
        return said
    return {
        **said,
        "model": entry.model,
        "draft": entry.draft,
        "system": entry.system,
        "finish_reason": entry.finish,
        "tokens": list(entry.ids),
        "tokenizer_sha256": entry.tokenizer,
        "figures": entry.figures,
    }
