"""`python -m export`: Hugging Face models to bundles, with what needs PyTorch at hand. Exit codes as edgespec's."""

from __future__ import annotations

import importlib.util
import sys
from typing import Literal, cast

import click

from edgespec.bundle import Bundle, default_store
from edgespec.bundle.hub_download import format_bytes
from edgespec.cli.main import run
from edgespec.cli.models import facts, print_facts
from edgespec.cli.output import note, progress
from edgespec.errors import UsageError
from edgespec.runtime.session import default_threads
from export.exporting import Plan, export, plan, require_same_vocabulary

Weights = Literal["int8", "int4"]

_weights = click.option(
    "--weights",
    type=click.Choice(["int8", "int4"]),
    default="int8",
    show_default=True,
    help="The format of the weights.",
)
_dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done and how large it is; write nothing.")
_force = click.option("--force", is_flag=True, help="Keep the bundle whatever the checks find.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Turn Hugging Face models into bundles, with every check."""


@main.command("hf")
@click.argument("model", metavar="OWNER/NAME[@REVISION]|FOLDER")
@click.option("--name", help="What to call it here.")
@_weights
@_dry_run
@_force
def hf_command(model: str, name: str | None, weights: str, dry_run: bool, force: bool) -> None:
    """Export one model: edgespec's own graph where it has one, else Optimum's."""
    if dry_run:
        _show_plan(model, name, cast(Weights, weights))
    else:
        _require_extra()
        _show(_export(model, name, cast(Weights, weights), force))


@main.command("pair")
@click.argument("target", metavar="TARGET")
@click.argument("draft", metavar="DRAFT")
@click.option("--name", help="What to call the target here.")
@click.option("--draft-name", help="What to call the draft here.")
@_weights
@_dry_run
@_force
def pair_command(
    target: str, draft: str, name: str | None, draft_name: str | None, weights: str, dry_run: bool, force: bool
) -> None:
    """Export a target and the model that drafts for it; `edgespec run` then uses them together."""
    with progress() as show:
        tokens = require_same_vocabulary(target, draft, show)
    chosen = cast(Weights, weights)
    if dry_run:
        _show_plan(draft, draft_name, chosen)
        _show_plan(target, name, chosen)
    else:
        _require_extra()
        small = _export(draft, draft_name, chosen, force)
        _show(small)
        _show(_export(target, name, chosen, force, small.name))
    note(f"both have the same {tokens:,} tokens")


@main.command("head")
@click.argument("target", metavar="MODEL")
@click.option("--name", help="What to call it here; MODEL-eagle3 unless told otherwise.")
@click.option("--tokens", type=click.IntRange(min=1), help="Tokens of conversations that the model writes.")
@click.option("--epochs", type=click.IntRange(min=1), help="How often it is trained on them.")
@click.option("--words", type=click.IntRange(min=64), help="How many of the model's tokens the head knows.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(min=1, max=256), help="One for each core unless told otherwise.")
def head_command(
    target: str,
    name: str | None,
    tokens: int | None,
    epochs: int | None,
    words: int | None,
    device: str,
    threads: int | None,
) -> None:
    """Train a head that drafts for a model of yours, on what the model itself writes.

    What is done is kept: broken off, it goes on where it was. The default model takes about six hours on two cores.
    """
    _require_extra()
    from export.head import train_head
    from export.train_draft import Recipe

    chosen = {"tokens": tokens, "epochs": epochs, "words": words}
    recipe = Recipe(**{key: value for key, value in chosen.items() if value is not None})
    with progress() as show:
        threads = threads or default_threads()
        trained = train_head(target, default_store(), recipe, name=name, device=device, threads=threads, progress=show)
    last = trained.points[-1]
    print_facts(
        [
            ("name", trained.bundle.name),
            ("size", f"{trained.bundle.manifest.size / 1e6:.1f} MB"),
            ("trained on", f"{last.tokens:,} tokens"),
            ("acceptance", " ".join(f"{share:.1%}" for share in last.acceptance)),
            ("round", f"{last.tokens_per_round:.2f} tokens"),
            ("kept", f"data, checkpoint and bfloat16 weights in {trained.work}; delete it when you are done"),
        ]
    )


@main.command("table")
@click.argument("target", metavar="MODEL")
@click.option("--name", help="What to call it here; MODEL-table unless told otherwise.")
@click.option(
    "--tokens", type=click.IntRange(min=1), default=9_000_000, show_default=True, help="Of what the model writes."
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(min=1, max=256), help="One for each core unless told otherwise.")
def table_command(target: str, name: str | None, tokens: int, device: str, threads: int | None) -> None:
    """Make a table that drafts for a model of yours, of what the model itself writes.

    A head that guides it is trained on the same text (docs/decisions/0024-guide.md). What is written is kept, and other
    heads are trained on it too. The default model takes about five hours on two cores.
    """
    _require_extra()
    from export.guide import Recipe
    from export.table import make_table

    with progress() as show:
        threads = threads or default_threads()
        built = make_table(
            target,
            default_store(),
            tokens,
            name=name,
            device=device,
            threads=threads,
            recipe=Recipe(),
            progress=show,
        )
    named = " ".join(f"{share:.1%}" for share in built.guide.acceptance)
    print_facts(
        [
            ("name", built.bundle.name),
            ("size", f"{built.bundle.manifest.size / 1e6:.1f} MB"),
            ("text", f"{built.tokens:,} tokens"),
            ("entries", f"{built.entries:,}"),
            ("right", f"{built.hit_rate:.1%} of an answer's tokens, on text that was held out"),
            ("its head", named),
            ("kept", f"the text in {built.work}; delete it when you are done"),
        ]
    )


def _require_extra() -> None:
    missing = [name for name in ("torch", "transformers", "optimum") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"exporting needs {', '.join(missing)}; install what it needs with `pip install -e '.[export]'`, "
            "or convert without checks with `edgespec pull`"
        )


def _export(model: str, name: str | None, weights: Weights, force: bool, draft: str | None = None) -> Bundle:
    with progress() as show:
        return export(model, default_store(), name=name, weights=weights, force=force, draft=draft, progress=show)


def _show(bundle: Bundle) -> None:
    print_facts(facts(bundle))


def _show_plan(model: str, name: str | None, weights: Weights) -> None:
    with progress() as show:
        found: Plan = plan(model, default_store(), name=name, weights=weights, progress=show)
    print_facts(
        [
            ("name", found.name),
            ("architecture", found.architecture),
            ("graph", "edgespec's own" if found.obstacle is None else f"Optimum's: {found.obstacle}"),
            ("to fetch", format_bytes(found.fetch)),
            ("disk needed", f"about {format_bytes(found.disk)} while it is made"),
            ("size", f"about {format_bytes(found.size)}"),
            ("memory", f"about {format_bytes(found.memory)} with 4,096 positions"),
            ("stages", "fetch, " * bool(found.fetch) + "convert, convert to float32, compare, time, store"),
        ]
    )


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], main, "python -m export"))
