"""The commands that manage models: pull, list, show, rm, verify."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from edgespec.bundle import Bundle, Manifest, default_store
from edgespec.bundle.catalog import load_catalog
from edgespec.cli.output import clean, note, print_table, progress
from edgespec.errors import ChecksumError, EdgespecError, UsageError
from edgespec.profile import Profiles, Tuned, tuned_key

if TYPE_CHECKING:
    from edgespec.graph.formats import WeightsName

_json_flag = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("pull")
@click.argument("reference", metavar="NAME|OWNER/NAME|FILE.gguf|FOLDER")
@click.option("--name", help="What to call it here.")
@click.option("--keep-layers", metavar="0-9,25-29", help="Keep only these layers: a draft for the whole model.")
@click.option(
    "--weights",
    type=click.Choice(["auto", "int8", "int4", "mixed", "kept"]),
    default="auto",
    show_default=True,
    help="How to store them: mixed is int4 where it harms least, kept a GGUF file's own 4 bits, auto the fastest that "
    "loses no more than it may.",
)
@click.option(
    "--profile",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="What it is to compute on; for cuda, in float16, its name ends with -cuda.",
)
@click.option("--head-of", metavar="MODEL", help="It is an EAGLE-3 head, which is to draft for this model.")
@click.option("--offline", is_flag=True, help="Do not fetch anything.")
def pull_command(
    reference: str,
    name: str | None,
    keep_layers: str | None,
    weights: str,
    profile: Literal["cpu", "cuda"],
    head_of: str | None,
    offline: bool,
) -> None:
    """Fetch a model of the catalog or of the Hub (OWNER/NAME[@REVISION][:FILE.gguf]), or convert a GGUF file or a
    checkpoint's folder.

    `edgespec list --catalog` shows the names that the catalog has.
    """
    from edgespec.making import Tools
    from edgespec.pull import parse_layers, pull

    if head_of is not None:
        if profile != "cpu":
            raise UsageError("a head is made for the device that its model is made for: leave out --profile.")
        _pull_head(reference, head_of, name, keep_layers, weights)
        return
    layers = None if keep_layers is None else parse_layers(keep_layers)
    tools = Tools(None if weights == "auto" else cast("WeightsName", weights), profile=profile)
    with progress() as show:
        bundle = pull(
            reference, default_store(), name=name, keep_layers=layers, offline=offline, tools=tools, progress=show
        )
    click.echo(bundle.name)


def _pull_head(reference: str, target: str, name: str | None, keep_layers: str | None, weights: str) -> None:
    from edgespec.heads import pull_head

    if keep_layers is not None or weights not in ("auto", "int8", "int4"):
        raise UsageError("a head has one layer, in int8 or int4: leave out --keep-layers, and other --weights.")
    chosen = cast("WeightsName", "int8" if weights == "auto" else weights)
    with progress() as show:
        bundle = pull_head(reference, target, default_store(), name=name, weights=chosen, progress=show)
    click.echo(bundle.name)
    note(f"`edgespec run {target} --draft {bundle.name}` uses it")


@click.command("list")
@_json_flag
@click.option("--catalog", is_flag=True, help="List the models that `pull` knows by name instead.")
def list_command(as_json: bool, catalog: bool) -> None:
    """List the models on this machine."""
    if catalog:
        _list_catalog(as_json)
        return
    store = default_store()
    bundles = store.list()
    if as_json:
        _print_json([_describe(bundle) for bundle in bundles])
    elif bundles:
        print_table([("NAME", "SIZE", "CONTEXT", "AGREEMENT", "LICENSE"), *(_row(bundle) for bundle in bundles)])
    for name in sorted(set(store.names()) - {bundle.name for bundle in bundles}):
        note(f"{name} is damaged and not listed; `edgespec verify {name}` says how")
    if all(bundle.manifest.made_for for bundle in bundles) and len(bundles) == len(store.names()):
        note(f"no models yet; `edgespec pull {load_catalog().default}` fetches one")


def _list_catalog(as_json: bool) -> None:
    pairs = load_catalog().pairs.values()
    if as_json:
        _print_json([{**asdict(pair), "here": pair.name in default_store().names()} for pair in pairs])
        return
    rows = [("NAME", "DRAFT", "FETCHES", "MEMORY", "LICENSE", "SUITS")]
    for pair in pairs:
        sizes = f"{pair.download / 1e9:.1f} GB", f"{pair.memory / 1e9:.1f} GB"
        rows.append((pair.name, pair.draft, *sizes, pair.license, pair.suits))
    print_table(rows)
    note("sizes are approximate; a draft that is a model is fetched with its target, and its memory comes on top")


@click.command("show")
@click.argument("name")
@_json_flag
def show_command(name: str, as_json: bool) -> None:
    """Show what is known about a model."""
    bundle = default_store().open(name)
    if as_json:
        _print_json(_describe(bundle))
        return
    print_facts(facts(bundle))


@click.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm_command(names: tuple[str, ...], yes: bool) -> None:
    """Delete models. Asks first when a person is at the terminal."""
    store = default_store()
    for name in names:
        store.require(name)
    if not yes and sys.stdin.isatty() and not click.confirm(f"Delete {', '.join(names)}?", err=True):
        note("nothing was deleted")
        return
    for name in dict.fromkeys(names):
        store.remove(name)
        note(f"deleted {name}")


@click.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME...]")
def verify_command(names: tuple[str, ...]) -> None:
    """Hash the files of models again; of all, without a name."""
    store = default_store()
    failures: list[EdgespecError] = []
    for name in names or store.names():
        try:
            with progress() as show:
                store.verify(name, show)
            click.echo(f"{clean(name)}: ok")
        except EdgespecError as error:
            click.echo(f"{clean(name)}: failed")
            failures.append(error)
    if failures:
        # A wrong checksum outranks a model that is not there.
        failures.sort(key=lambda error: isinstance(error, ChecksumError))
        for error in failures[:-1]:
            note(str(error))
        raise failures[-1]


def _describe(bundle: Bundle) -> dict[str, Any]:
    tuned = _tuned(bundle)
    return {
        **bundle.manifest.to_json(),
        "size": bundle.manifest.size,
        "path": str(bundle.directory),
        "tuned": asdict(tuned) if tuned else None,
    }


def _tuned(bundle: Bundle) -> Tuned | None:
    return Profiles(default_store()).tuned(tuned_key(bundle, "auto"))


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def _row(bundle: Bundle) -> tuple[str, ...]:
    manifest = bundle.manifest
    agreement = f"{manifest.quality.top1_agreement:.1%}" if manifest.quality else "-"
    return (
        manifest.name,
        f"{manifest.size / 1e6:.0f} MB",
        str(manifest.context_length),
        agreement,
        clean(manifest.license or "unknown"),
    )


def print_facts(found: Sequence[tuple[str, str]]) -> None:
    """Print them one a line, as `show` does."""
    for key, value in found:
        click.echo(f"{key:<14}{clean(value)}")


def facts(bundle: Bundle) -> list[tuple[str, str]]:
    """What `show` says of a model: names and values."""
    manifest, quality = bundle.manifest, bundle.manifest.quality
    return [
        ("name", manifest.name),
        ("path", str(bundle.directory)),
        ("size", f"{manifest.size / 1e6:.0f} MB"),
        ("architecture", manifest.architecture),
        ("drafts for", manifest.made_for.target) if manifest.made_for else ("layers", str(len(manifest.layers))),
        ("context", f"{manifest.context_length} tokens"),
        ("vocabulary", f"{manifest.vocab_size} tokens"),
        ("weights", manifest.recipe),
        (
            "quality",
            f"mean KL {quality.mean_kl:.4f}, top-1 agreement {quality.top1_agreement:.1%} over {quality.tokens} tokens"
            if quality
            else "not measured: a draft answers for nothing",
        ),
        *_checked(manifest),
        ("tuned", tuned.words if (tuned := _tuned(bundle)) else "no; `edgespec tune` finds what is fastest"),
        ("license", manifest.license or "unknown"),
        ("source", f"{manifest.source.revision or manifest.source.reference} (SHA-256 {manifest.source.sha256})"),
    ]


def _checked(manifest: Manifest) -> list[tuple[str, str]]:
    """What an export found; nothing for a bundle that was pulled."""
    facts = [("draft", manifest.draft)] if manifest.draft else []
    if (checks := manifest.checks) is not None:
        compared = "not compared: too large for the memory that was free"
        if checks.parity is not None:
            compared = f"within {checks.parity:.1e} of transformers' logits"
        facts.append(("parity", compared))
        costs = " ".join(f"{ms / checks.pass_ms[0]:.2f}" for ms in checks.pass_ms)
        facts += [
            ("memory", f"{checks.memory / 1e6:.0f} MB where it was exported"),
            ("pass", f"{checks.pass_ms[0]:.1f} ms; of 1 to {len(checks.pass_ms)} rows, in ratio: {costs}"),
        ]
    return facts
