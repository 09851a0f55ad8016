"""`edgespec history`: what was said in the chat, on this machine."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import click

from edgespec.cli.output import clean, note, print_table
from edgespec.conversations import FILE
from edgespec.conversations.conversation import Conversation
from edgespec.conversations.database import reason
from edgespec.conversations.export import Format, iso, to_json, to_markdown, when, write_new
from edgespec.conversations.store import ConversationStore, Found
from edgespec.errors import EdgespecError, UsageError
from edgespec.places import conversations_directory, history_directory

_SHORT = 8
"""Digits of an id that are shown: more than a search for the id will need."""

_json_flag = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("history")
def history_command() -> None:
    """List, search, show, export and delete conversations. An ID may be shortened as long as it is the only one."""


@history_command.command("list")
@click.option("--limit", type=click.IntRange(min=1), help="Only the latest so many.")
@_json_flag
def list_command(limit: int | None, as_json: bool) -> None:
    """List conversations, the latest first."""
    with opened() as store:
        _print_found(store.list()[:limit] if store else [], as_json=as_json)
    if store is None:
        note(f"nothing has been kept yet in {conversations_directory()}")


@history_command.command("search")
@click.argument("words", nargs=-1, required=True)
@_json_flag
def search_command(words: tuple[str, ...], as_json: bool) -> int:
    """List the conversations that have a message, or a title, with all of WORDS; exit code 1 if there is none."""
    with opened() as store:
        found = store.search(" ".join(words)) if store else []
    _print_found(found, as_json=as_json)
    if not found:
        note("nothing was found")
    return 0 if found else 1


@history_command.command("show")
@click.argument("id_", metavar="[ID]", required=False)
@_json_flag
def show_command(id_: str | None, as_json: bool) -> None:
    """Print a conversation; without an ID, the latest."""
    with opened() as store:
        if id_ is None:
            found = store.list()[:1] if store else []
            if not found:
                raise UsageError("There is no conversation yet.")
            id_ = found[0].id
        (conversation,) = _load(store, [id_])
    click.echo(
        json.dumps(to_json(conversation), indent=2) if as_json else to_markdown(conversation).encode(), nl=as_json
    )


@history_command.command("export")
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--all", "everything", is_flag=True, help="All conversations.")
@click.option("--format", "kind", type=click.Choice(["md", "json"]), default="md", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to a new file rather than to stdout.")
def export_command(ids: tuple[str, ...], everything: bool, kind: Format, output: Path | None) -> None:
    """Write conversations as Markdown, or as JSON with all branches, tokens and figures."""
    with opened() as store:
        conversations = _load(store, _chosen(store, ids, everything=everything))
    if kind == "json":
        text = json.dumps([to_json(conversation) for conversation in conversations], indent=2) + "\n"
    else:
        text = "\n".join(to_markdown(conversation) for conversation in conversations)
    if output is None:
        click.echo(text.encode(), nl=False)
        return
    write_new(output, text)
    note(f"wrote {output}")


@history_command.command("rm")
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--all", "everything", is_flag=True, help="All conversations.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm_command(ids: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Delete conversations for good. Asks first when a person is at the terminal."""
    with opened() as store:
        chosen = _chosen(store, ids, everything=everything)
        titles = {found.id: clean(found.title) for found in store.list()} if store else {}
        what = titles[chosen[0]] if len(chosen) == 1 else f"{len(chosen)} conversations"
        if not yes and sys.stdin.isatty() and not click.confirm(f"Delete {what}?", err=True):
            note("nothing was deleted")
            return
        if store is not None:
            store.delete(chosen)
    note(f"deleted {what}")
    if any(history_directory().glob("*.tokens")):
        note(f"answers are also kept for later drafts: delete {history_directory()} to forget those")


@contextlib.contextmanager
def opened() -> Generator[ConversationStore | None]:
    """The store; None where nothing has ever been kept."""
    directory = conversations_directory()
    if not (directory / FILE).exists():
        yield None
        return
    try:
        store = ConversationStore(directory, note)
        try:
            yield store
        finally:
            store.close()
    except (sqlite3.Error, OSError) as error:
        raise EdgespecError(f"The conversations cannot be had: {reason(error, directory)}.") from error


def _chosen(store: ConversationStore | None, ids: Sequence[str], *, everything: bool) -> list[str]:
    if everything == bool(ids):
        raise UsageError("Say which conversations: give their ids, or --all.")
    if store is None:
        raise UsageError("There is no conversation yet.")
    chosen = [found.id for found in store.list()] if everything else [store.find(id_) for id_ in ids]
    if not chosen:
        raise UsageError("There is no conversation yet.")
    return list(dict.fromkeys(chosen))


def _load(store: ConversationStore | None, ids: Sequence[str]) -> list[Conversation]:
    if store is None:
        raise UsageError("There is no conversation yet.")
    return [store.load(store.find(id_)) for id_ in ids]


def _print_found(found: Sequence[Found], *, as_json: bool) -> None:
    if as_json:
        _print_json([_describe(one) for one in found])
    elif found:
        rows = [(f.id[:_SHORT], when(f.updated), str(f.messages), clean(f.title), clean(f.excerpt)) for f in found]
        print_table([("ID", "LAST", "MESSAGES", "TITLE", "FOUND" if any(f.excerpt for f in found) else ""), *rows])


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def _describe(found: Found) -> dict[str, Any]:
    return {
        "id": found.id,
        "title": found.title,
        "created": iso(found.created),
        "updated": iso(found.updated),
        "messages": found.messages,
        "model": found.model,
        "excerpt": found.excerpt or None,
    }
