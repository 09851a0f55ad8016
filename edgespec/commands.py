"""What may be typed in place of a message: one table for the prompt, the palette, `run`'s line mode and the help."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgespec.config import OPTIONS
from edgespec.errors import UsageError


@dataclass(frozen=True, slots=True)
class Command:
    """A command. argument: how it is written, in brackets where it may be left out. title: for the palette."""

    name: str
    argument: str
    title: str
    help: str

    @property
    def usage(self) -> str:
        return f"/{self.name} {self.argument}".rstrip()


@dataclass(frozen=True, slots=True)
class Call:
    """A command that was typed, and what followed it."""

    command: Command
    argument: str


_ALL = (
    Command("model", "[NAME]", "Choose a model", "Go on with another model; without a name, choose one."),
    Command("draft", "[NAME|ngram|none]", "Choose a draft", "Draft with something else; without a name, choose it."),
    Command("system", "[TEXT|none]", "Change the system message", "Tell the model how to be, from the next turn on."),
    Command("set", "[OPTION VALUE]", "Change settings", "Change sampling and other settings for this chat."),
    Command("stats", "", "Show statistics", "What speculation did in this chat."),
    Command("context", "", "Show the context", "How full the context is, and what can be done about it."),
    Command("save", "[FILE]", "Save the conversation to a file", "Write the conversation as Markdown, or JSON."),
    Command("history", "[WORDS]", "Open a conversation", "Search what was said, and go on with it."),
    Command("clear", "", "New chat", "Begin a new conversation."),
    Command("regen", "", "Answer again", "Have the last question answered again."),
    Command("edit", "", "Edit the last question", "Change the last question and send it again."),
    Command("help", "", "Help", "Commands, keys, and what the figures mean."),
    Command("bye", "", "Quit", "Leave."),
)
COMMANDS: Mapping[str, Command] = MappingProxyType({command.name: command for command in _ALL})

SETTABLE = (*(name for name in OPTIONS if name.startswith("sampling.")), "max-tokens", "system")
"""The options that `/set` changes while a model is open."""


def parse(text: str) -> Call | str:
    """The command that `text` is, or the message: what does not begin with a slash, and what begins with two, of which
    one is taken away.

    Raises: UsageError for an unknown command, naming the closest.
    """
    if not text.startswith("/"):
        return text
    if text.startswith("//"):
        return text[1:]
    name, _, argument = text[1:].partition(" ")
    name = name.strip().lower()
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean /{close[0]}?" if close else "/help lists them."
        raise UsageError(f"There is no command /{name}; {hint} A message that starts with a slash is sent with two.")
    return Call(COMMANDS[name], argument.strip())


def complete(text: str, arguments: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """What `text` could become: commands, or for one that is complete what could follow it.

    arguments: what each command may be followed by.
    """
    if not text.startswith("/") or text.startswith("//") or "\n" in text:
        return ()
    name, space, argument = text[1:].partition(" ")
    if not space:
        return tuple(f"/{command}" for command in COMMANDS if command.startswith(name) and command != name)
    return tuple(f"/{name} {a}" for a in arguments.get(name, ()) if a.startswith(argument) and a != argument)
