"""The flags that `run`, `bench` and the chat share, and what they build."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from edgespec.chat.session import DRAFT_MAX, MAX_TOKENS, Settings
from edgespec.decoding.sampling import Sampling
from edgespec.engine import Resources

_F = TypeVar("_F", bound=Callable[..., Any])


def generation_flags(*, max_tokens: int = MAX_TOKENS) -> Callable[[_F], _F]:
    """Give a command the flags that say how answers are made; its answers have `max_tokens` unless told otherwise."""
    flags = (
        click.option(
            "-d",
            "--draft",
            metavar="NAME|ngram|none",
            help="What proposes tokens (default: as tuned, or the catalog's).",
        ),
        click.option("--draft-max", type=int, metavar="K", help=f"Longest draft (default: as tuned, or {DRAFT_MAX})."),
        click.option(
            "--draft-branches",
            type=int,
            default=1,
            metavar="N",
            help="Let drafts branch in N ways, which seldom pays; needs --no-exact.",
        ),
        click.option(
            "--exact/--no-exact",
            default=None,
            help="The same text with any draft, or none. Default: on at temperature 0.",
        ),
        click.option("-t", "--temp", type=float, default=0.0, show_default=True, help="Temperature; 0 is greedy."),
        click.option("--top-k", type=int, default=0, help="Keep the K likeliest tokens; 0 keeps all."),
        click.option("--top-p", type=float, default=1.0, help="Keep the likeliest tokens that hold this probability."),
        click.option("--min-p", type=float, default=0.0, help="Keep tokens this likely against the likeliest."),
        click.option("--repeat-penalty", type=float, default=1.0, help="Above 1 makes recent tokens unlikelier."),
        click.option("--seed", type=int, help="Sample the same way every time."),
        click.option(
            "-n", "--max-tokens", type=int, default=max_tokens, show_default=True, help="End an answer there."
        ),
        click.option("-c", "--ctx-size", type=int, help="Context length in tokens."),
        click.option("-s", "--system", help="The system message."),
        click.option("--stop", multiple=True, metavar="TEXT", help="End an answer before this text; may be repeated."),
        click.option("--threads", type=int, help="Threads to compute with (default: as tuned, or one per core)."),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
        click.option(
            "--draft-device",
            type=click.Choice(["auto", "cpu", "cuda"]),
            help="What a draft model computes on (default: cpu if --device is, else auto).",
        ),
        click.option("--offline", is_flag=True, help="Fetch nothing."),
    )

    def decorate(command: _F) -> _F:
        for flag in reversed(flags):
            command = flag(command)
        return command

    return decorate


def read_settings(flags: dict[str, Any]) -> Settings:
    """Raises: UsageError for a value out of range."""
    return Settings(
        sampling=Sampling(
            temperature=flags["temp"],
            top_k=flags["top_k"],
            top_p=flags["top_p"],
            min_p=flags["min_p"],
            repeat_penalty=flags["repeat_penalty"],
            seed=flags["seed"],
        ),
        exact=flags["exact"],
        draft_max=flags["draft_max"],
        draft_branches=flags["draft_branches"],
        max_tokens=flags["max_tokens"],
        stop=flags["stop"],
        system=flags["system"],
    )


def read_resources(flags: dict[str, Any]) -> Resources:
    return Resources(flags["ctx_size"], flags["threads"], flags["device"], flags["draft_device"])
