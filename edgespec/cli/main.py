"""The `edgespec` command: finds the subcommand, and is the one place that decides exit codes."""

from __future__ import annotations

import difflib
import gc
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource

from edgespec.cli.output import note
from edgespec.cli.remembering import history_flag
from edgespec.errors import EdgespecError

if TYPE_CHECKING:
    from edgespec.config import Config

_MODULES = {
    "run": "run",
    "pull": "models",
    "list": "models",
    "show": "models",
    "rm": "models",
    "verify": "models",
    "bench": "bench",
    "tune": "tune",
    "doctor": "doctor",
    "history": "history",
    "config": "config",
    "web": "web",
}
"""Each subcommand's module in edgespec.cli, in the order of `--help`; the module is imported when it is needed."""

_CONFIGURED = {
    "bench": ("model", "draft", "ctx_size", "threads", "device", "draft_device"),
    "tune": ("model", "device"),
    "doctor": ("model", "threads", "device"),
}
"""Which flags of these the config stands in for; for those of `run` it does for all. What is compared or measured is
what was asked for, so sampling is left out here."""

INTERRUPTED = 130
OUT_OF_MEMORY = 6
_HINT = "try `edgespec --help`"


class _LazyGroup(click.Group):
    """A group whose commands are imported on use, so that `--version` need not wait for any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        module = importlib.import_module(f"edgespec.cli.{_MODULES[cmd_name]}")
        return getattr(module, f"{cmd_name}_command")

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Whoever read the output has had enough. Nothing may fail again when the interpreter flushes it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in _MODULES and not name.startswith("-"):
            close = difflib.get_close_matches(name, _MODULES, n=1)
            hint = f"did you mean {close[0]}?" if close else _HINT
            raise click.UsageError(f"there is no command {name}; {hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgespec", message="%(prog)s %(version)s")
@history_flag
@click.pass_context
def edgespec(ctx: click.Context, history: bool) -> None:
    """Chat with a language model on this machine. Without a command, opens the chat in the terminal."""
    if ctx.invoked_subcommand and ctx.get_parameter_source("history") is ParameterSource.COMMANDLINE:
        raise click.UsageError(f"--history and --no-history go behind `{ctx.invoked_subcommand}`", ctx)
    name = ctx.invoked_subcommand
    if name not in (None, "run", *_CONFIGURED):
        return
    from edgespec.config import read_config  # not for `--version`

    config = read_config()
    flags = config.flags()
    if name is not None:
        ctx.default_map = {name: {flag: flags[flag] for flag in _CONFIGURED.get(name, flags) if flag in flags}}
        return
    if ctx.get_parameter_source("history") is ParameterSource.DEFAULT:
        history = bool(config.values.get("history", history))
    _chat(config, history)


def _chat(config: Config, history: bool) -> None:
    gc.disable()  # what the first screen imports stays, and need not be looked through; the load begins with it again
    try:
        from edgespec.places import history_directory
        from edgespec.tui.run import run_app

        run_app(config, history_directory() if history else None)
    finally:
        gc.enable()


def main() -> NoReturn:
    """The console script."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _leave)
    sys.exit(run(sys.argv[1:]))


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    """Unwind, so that the terminal is restored and nothing half-made stays behind."""
    sys.exit(128 + number)


def run(args: Sequence[str], command: click.Command = edgespec, name: str = "edgespec") -> int:
    """Run one command line and return its exit code; errors end up as one sentence on stderr."""
    try:
        code = command.main(args, prog_name=name, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except EdgespecError as error:
        note(str(error))
        return error.exit_code
    except click.ClickException as error:
        note(_sentence(error))
        return 2
    except (click.Abort, KeyboardInterrupt):
        note("interrupted")
        return INTERRUPTED
    except MemoryError:
        note("there is not enough memory; close other programs, or use a smaller model or context")
        return OUT_OF_MEMORY
    except Exception as error:  # a bug: the user gets a sentence, the log gets the rest
        note(_confess(error))
        return 1


def _sentence(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    if isinstance(error, click.UsageError) and error.ctx is not None and "?" not in message and _HINT not in message:
        return f"{message}; try `{error.ctx.command_path} --help`"
    return message


def _confess(error: Exception) -> str:
    """Keep the traceback for whoever repairs it, and say where it is."""
    what = f"something went wrong that should not ({type(error).__name__}: {error})"
    if os.environ.get("EDGESPEC_DEBUG"):
        traceback.print_exception(error)
        return what
    from edgespec.places import state_directory

    log = state_directory() / "errors.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"--- {datetime.now(UTC).isoformat(timespec='seconds')} {sys.argv[1:]}\n")
            traceback.print_exception(error, file=file)
    except OSError:
        return f"{what}; set EDGESPEC_DEBUG=1 to see the details"
    return f"{what}; the details are in {log}"
