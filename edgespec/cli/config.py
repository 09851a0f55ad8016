"""`edgespec config`: what the commands and the chat do unless a flag says otherwise."""

from __future__ import annotations

import click

from edgespec.cli.output import clean, note
from edgespec.config.file import read_config, set_value, unset_value
from edgespec.config.options import OPTIONS, Value, find_option
from edgespec.errors import UsageError
from edgespec.places import config_file


@click.group("config")
def config_command() -> None:
    """Show and change what holds unless a flag says otherwise."""


@config_command.command("list")
@click.option("--all", "everything", is_flag=True, help="Also what is not set, as comments.")
def list_command(everything: bool) -> None:
    """Print what is set, one option a line."""
    config = read_config()
    for name, option in OPTIONS.items():
        if name in config.values:
            click.echo(f"{name}={clean(_written(config.values[name]))}")
        elif everything:
            click.echo(f"# {name}: {option.help} Usual: {option.usual}")
    if not config.values and not everything:
        note(f"nothing is set in {config.path}; `edgespec config list --all` shows what can be")


@config_command.command("get")
@click.argument("name")
def get_command(name: str) -> int:
    """Print an option's value; exit code 1 if it is not set."""
    option, config = find_option(name), read_config()
    if option.name not in config.values:
        note(f"{option.name} is not set (usual: {option.usual})")
        return 1
    click.echo(clean(_written(config.values[option.name])))
    return 0


@config_command.command("set")
@click.argument("name")
@click.argument("value")
def set_command(name: str, value: str) -> None:
    """Set an option."""
    option = find_option(name)
    set_value(config_file(), option, option.parse(value))


@config_command.command("unset")
@click.argument("name")
def unset_command(name: str) -> int:
    """Take an option out of the file; exit code 1 if it is not in it."""
    if unset_value(config_file(), name):
        return 0
    option = find_option(name)
    if option.name != name and unset_value(config_file(), option.name):
        return 0
    note(f"{option.name} is not set")
    return 1


@config_command.command("path")
def path_command() -> None:
    """Print where the file is, or would be."""
    click.echo(config_file())


@config_command.command("edit")
def edit_command() -> None:
    """Open the file in $EDITOR, then say whether it is right."""
    path = config_file()
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_template(), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
    click.edit(filename=str(path))
    read_config(path)


def _template() -> str:
    """A file that changes nothing and shows what could be changed."""
    lines, table = ["# edgespec's config; `edgespec config list --all` explains it."], ""
    for name, option in OPTIONS.items():
        head, _, key = name.rpartition(".")
        if head != table:
            lines += ["", f"[{head}]"]
            table = head
        example = '"…"' if option.kind is str else "true" if option.kind is bool else "0"
        lines.append(f"# {key} = {example}  # {option.help} Usual: {option.usual}")
    return "\n".join(lines) + "\n"


def _written(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
