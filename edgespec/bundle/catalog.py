"""The named pairs that `pull` knows, from catalog.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgespec.bundle.hub import HubReference

CATALOG = Path(__file__).with_name("catalog.toml")


@dataclass(frozen=True, slots=True)
class WheelSource:
    """One file inside a wheel of the package registry: `requirement` is pinned, sizes are bytes, hashes SHA-256."""

    requirement: str
    size: int
    sha256: str
    member: str
    member_size: int
    member_sha256: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A target, where it comes from, and the draft that goes with it: "ngram", the name of another pair, or
    of a bundle that comes with the program.

    `download` and `memory` are bytes, estimates for what comes from the Hub; catalog.toml says of what. `suits`: which
    machines and tasks it is for.
    """

    name: str
    title: str
    license: str
    draft: str
    download: int
    memory: int
    suits: str
    source: WheelSource | HubReference


@dataclass(frozen=True, slots=True)
class Catalog:
    """`default` names the pair that a first start fetches."""

    default: str
    pairs: Mapping[str, Pair]


def load_catalog(path: Path = CATALOG) -> Catalog:
    """Read a catalog; ours is part of the program, so a mistake in it is a bug and raises as it comes."""
    table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    pairs: dict[str, Pair] = {}
    for name, entry in table["pairs"].items():
        source = entry.pop("source")
        kind = HubReference if source.pop("kind") == "hub" else WheelSource
        entry["source"] = kind(**source)
        pairs[name] = Pair(name=name, **entry)
    return Catalog(table["default"], pairs)
