"""`--no-history`, and EDGESPEC_HISTORY=0: neither look up nor keep what was answered."""

from __future__ import annotations

import click

history_flag = click.option(
    "--history/--no-history",
    default=True,
    envvar="EDGESPEC_HISTORY",
    help="Draft from your earlier answers, which are kept on this machine; `edgespec doctor` says where.",
)
