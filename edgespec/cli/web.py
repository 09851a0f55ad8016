"""`edgespec web`: the chat in a browser on this machine."""

from __future__ import annotations

import errno
import importlib.util

import click

from edgespec.cli.output import note
from edgespec.cli.remembering import history_flag
from edgespec.errors import UsageError


@click.command("web")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@history_flag
def web_command(host: str, port: int, history: bool) -> None:
    """Open the chat in a browser: prints an address that only you should have."""
    if importlib.util.find_spec("textual_serve") is None:
        raise UsageError("`edgespec web` needs more packages: pip install 'edgespec[web]', then try again.")
    from edgespec.web import ChatServer

    if host not in ("127.0.0.1", "localhost", "::1"):
        note("others can reach this address: whoever has the token reads and writes your conversations, unencrypted")
    try:
        ChatServer(host, port, [] if history else ["--no-history"], note).serve()
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
            raise UsageError(f"{host}:{port} cannot be had ({error.strerror}); choose another --port.") from error
        raise
