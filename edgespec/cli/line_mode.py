"""The chat line by line: questions and commands from stdin, answers on stdout, all else on stderr."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from edgespec.bundle import default_store
from edgespec.chat.fitting import drop_oldest, summarize_oldest
from edgespec.chat.session import Chat, Settings
from edgespec.chat.summary import in_words, summarize
from edgespec.choices import Choice, draft_choices, fits_beside, model_choices
from edgespec.cli.answering import print_answer
from edgespec.cli.history import opened
from edgespec.cli.line_input import Lines
from edgespec.cli.output import clean, note
from edgespec.commands import COMMANDS, SETTABLE, parse
from edgespec.config.options import find_option
from edgespec.configured import changed_settings, values_from
from edgespec.conversations import export
from edgespec.conversations.export import when
from edgespec.conversations.recorder import Recorder
from edgespec.decoding.stats import Stats
from edgespec.errors import ContextFullError, EdgespecError, UsageError

_LISTED = 20
"""Conversations that are listed at once."""

OpenChat = Callable[[str, str | None, Settings], Chat]
"""Opens a model with a draft (None: the usual one) and settings."""


class LineMode:
    """One conversation. `plain`: said in words and whole lines, for whoever listens to the screen."""

    def __init__(self, chat: Chat, recorder: Recorder, reopen: OpenChat, *, plain: bool) -> None:
        self._chat, self._recorder, self._reopen, self._plain = chat, recorder, reopen, plain
        self._stats = Stats()
        self._unsent: str | None = None
        self._lines = Lines("You: " if plain else "❯ ", editing=not plain)
        self._commands: dict[str, Callable[[str], None]] = {
            "model": self._model,
            "draft": self._draft,
            "system": lambda text: self._change("system", text),
            "set": self._set,
            "stats": lambda _: self._say_stats(),
            "context": self._context,
            "save": self._save,
            "history": self._history,
            "clear": lambda _: self._clear(),
            "regen": lambda _: self._again(None),
            "edit": self._edit,
            "help": lambda _: self._help(),
        }

    def run(self) -> None:
        """Ask for lines until the input ends, or until /bye. Ctrl-C stops an answer, which is kept; at the prompt it
        leaves."""
        note("one line is one message; /help lists commands; Ctrl-C stops an answer, Ctrl-D ends the chat")
        for line in self._lines:
            try:
                said = parse(line)
                if isinstance(said, str):
                    self._ask(said)
                elif said.command.name == "bye":
                    return
                else:
                    self._commands[said.command.name](said.argument)
            except EdgespecError as error:
                note(str(error))

    def _ask(self, text: str) -> None:
        self._unsent = None
        self._recorder.begin(text)
        if self._plain:
            note(f"{self._chat.model} answers:")
        try:
            answer = print_answer(self._chat, self._recorder.answer(self._chat, text), by_line=self._plain)
        except ContextFullError as error:
            self._unsent = text
            raise UsageError(
                f"{error} Or send it with `/context drop`, without the oldest turns, or `/context summarize`."
            ) from error
        self._stats.merge(answer.stats)
        stopped = " · stopped" if answer.finish_reason == "cancelled" else ""
        note((in_words(answer) if self._plain else summarize(answer)) + stopped)

    def _model(self, name: str) -> None:
        if name:
            self._switch(name, None)
        else:
            self._say_choices(model_choices(default_store()), self._chat.model)

    def _draft(self, name: str) -> None:
        if name:
            self._switch(self._chat.model, name)
        else:
            self._say_choices(draft_choices(self._chat.model, default_store()), self._chat.draft or "none")

    def _switch(self, model: str, draft: str | None) -> None:
        if not fits_beside({"model": model, "draft": draft or ""}):
            raise UsageError(
                f"{model} does not fit into memory beside {self._chat.model}; leave with /bye, then "
                f"`edgespec run {model}`."
            )
        chat = self._reopen(model, draft, self._chat.settings)
        self._chat.close()
        self._chat = chat
        note(f"now {chat.model}, draft {chat.draft or 'none'}, on {chat.device}")

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        if name:
            self._change(find_option(name).name, value.strip())
            return
        values = values_from(self._chat.settings)
        for option in SETTABLE:
            _say(f"{option} {values.get(option, 'none')}")

    def _change(self, name: str, text: str) -> None:
        if not text:
            raise UsageError(f"{name} is {values_from(self._chat.settings).get(name, 'none')}; what shall it be?")
        if name not in SETTABLE:
            raise UsageError(f"{name} does not change here; `edgespec config set {name}` holds from the next start.")
        value = None if name == "system" and text == "none" else find_option(name).parse(text)
        self._chat.adjust(changed_settings(self._chat.settings, {name: value}))
        note(f"from the next answer on: {name} {text}")

    def _say_stats(self) -> None:
        stats = self._stats
        if not stats.rounds:
            raise UsageError("Nothing has been answered yet.")
        _say(f"tokens {stats.emitted} in {stats.rounds} rounds, {stats.plain_rounds} of them plain")
        _say(f"tokens per round {stats.tokens_per_round:.2f}, corrections {stats.corrections}, bonus {stats.bonus}")
        if stats.acceptance is not None:
            _say(f"acceptance {stats.acceptance:.0%}: {stats.accepted} of {stats.tested} tested proposals")

    def _context(self, what: str) -> None:
        used, length = self._chat.context_used, self._chat.context_length
        if what not in ("drop", "summarize"):
            _say(f"{used} of {length} tokens of the context are used ({used / length:.0%})")
            return
        text = self._unsent
        if text is None:
            raise UsageError("Nothing waits for room in the context.")
        if what == "drop":
            gone = len(drop_oldest(self._chat, text))
            note(f"the model does not see the {gone} oldest messages any more; they are kept in the conversation")
        else:
            note(f"{self._chat.model} summarizes the oldest turns for itself:")
            print_answer(self._chat, summarize_oldest(self._chat, text), by_line=self._plain)
        self._ask(text)

    def _save(self, file: str) -> None:
        if not self._recorder.conversation.entries:
            raise UsageError("Nothing has been said yet.")
        note(f"saved to {export.save(self._recorder.conversation, Path(file) if file else None)}")

    def _history(self, words: str) -> None:
        """List what is found; go on with the only one."""
        self._recorder.flush()
        with opened() as store:
            found = store.search(words) if store is not None and self._recorder.directory is not None else []
            if store is not None and words and len(found) == 1:
                self._recorder.open(store.load(found[0].id))
                self._stats = Stats()
                note(f"now “{clean(found[0].title)}”, {found[0].messages} messages; /save writes it to a file")
                return
        if not found:
            raise UsageError("Nothing was found." if words else "No conversation is kept.")
        for one in found[:_LISTED]:
            _say(f"{when(one.updated)}, {one.messages} messages: {one.title}")
        note("/history with words that only one of them has goes on with it")

    def _clear(self) -> None:
        self._chat.clear()
        self._recorder.new()
        self._stats = Stats()
        note("a new conversation")

    def _again(self, changed: str | None) -> None:
        text = self._recorder.rewind()
        if text is None:
            raise UsageError("Nothing has been asked yet.")
        self._ask(changed or text)

    def _edit(self, text: str) -> None:
        path = self._recorder.conversation.path()
        if not path:
            raise UsageError("Nothing has been asked yet.")
        changed = text or self._lines.edit(path[-2].text)
        if not changed:
            raise UsageError("Write the changed question behind /edit.")
        self._again(changed)

    def _help(self) -> None:
        for command in COMMANDS.values():
            _say(f"{command.usage:<26} {command.help}")
        _say("A message that starts with a slash is sent with two.")

    def _say_choices(self, choices: list[Choice], current: str) -> None:
        for choice in choices:
            state = "in use" if choice.name == current else choice.obstacle or ("" if choice.here else "not fetched")
            speedup = "" if choice.speedup is None else f"predicted {choice.speedup:.2f} times as fast"
            _say(", ".join(part for part in (choice.name, state, speedup, choice.about) if part))


def _say(text: str) -> None:
    click.echo(clean(text), err=True)
