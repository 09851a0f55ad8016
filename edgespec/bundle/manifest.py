"""`edgespec.json`: what a bundle says about itself, read strictly."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

from edgespec.bundle.files import open_plain
from edgespec.bundle.strict_json import JsonObject, MalformedError, load_strict
from edgespec.errors import ChecksumError, ModelError, UsageError

FORMAT = 4
"""The format version that this program writes."""

_ADDED = {
    1: {"checks": None, "draft": None, "head": None, "table": None},
    2: {"head": None, "table": None},
    3: {"table": None},
    4: {},
}
"""The versions that it reads, and what each lacks: keys, and what their absence means."""

CUDA_SUFFIX = "-cuda"
"""What the names of bundles end with that are made for a GPU, so that those for the CPU can stand beside them."""
HALF_PRECISION = ", float16 activations"
"""What a recipe ends with whose graph computes in float16."""

FILE_NAME = "edgespec.json"
_MAX_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


SourceKind = Literal["wheel", "hub", "gguf", "folder", "training"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the weights came from: a wheel named in the catalog, a repository of the Hub, a GGUF file of the user's, a
    checkpoint's folder, or our own training.

    `reference` is what `edgespec pull` was given, `revision` the pinned requirement of a wheel or the commit of a
    repository, `sha256` the GGUF's or that of a checkpoint's files (see `hub.HubModel.sha256`).
    """

    kind: SourceKind
    reference: str
    revision: str | None
    sha256: str


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file's size in bytes and its SHA-256 in hex."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Quality:
    """How close the quantized weights are to the source's, over `tokens` positions of text the model wrote itself:
    mean KL divergence (nats) of the next-token distributions, and the share of positions with the same top choice."""

    mean_kl: float
    top1_agreement: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Checks:
    """What an export found on the machine that it ran on.

    `parity`: the largest absolute difference between the float32 graph's logits and transformers' own, None if they
    were not compared. `memory`: bytes that the process grew by with the model loaded and 256 positions in its KV cache.
    `pass_ms`: median milliseconds of a pass of 1, 2, ... 9 rows behind those.
    """

    parity: float | None
    memory: int
    pass_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class HeadRecord:
    """What a head drafts for: a model by its bundle's name, the SHA-256 of its tokenizer.json, and how many floats of
    hidden states it must show for a row. `window`: how many positions the head attends to; None is all."""

    target: str
    tokenizer_sha256: str
    hidden_size: int
    window: int | None


@dataclass(frozen=True, slots=True)
class TableRecord:
    """What a table of n-grams was made for: a model by its bundle's name, and the SHA-256 of its tokenizer.json."""

    target: str
    tokenizer_sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A bundle's description. `layers` are the source's layers that were kept; `quality` is None for a draft made of
    some of them, which answers for nothing. `files` names every file of the bundle but the manifest. `draft` is the
    bundle that it was exported together with, to draft for it. `head`, `table`: it is not a model but a head on one, or
    a table of what one says; then it has neither a tokenizer nor layers of its own."""

    name: str
    source: Source
    license: str | None
    architecture: str
    files: Mapping[str, FileRecord]
    graph: str
    context_length: int
    vocab_size: int
    eos_ids: tuple[int, ...]
    layers: tuple[int, ...]
    recipe: str
    quality: Quality | None
    checks: Checks | None = None
    draft: str | None = None
    head: HeadRecord | None = None
    table: TableRecord | None = None

    @property
    def made_for(self) -> HeadRecord | TableRecord | None:
        """The model that it drafts for, if it can do nothing else."""
        return self.head or self.table

    def drafts_for(self, name: str, tokenizer_sha256: str) -> bool:
        """Whether it can do nothing but draft for the model of that name, with that very tokenizer, which says the
        same on a GPU as on the CPU."""
        found, names = self.made_for, (name, name.removesuffix(CUDA_SUFFIX))
        return found is not None and found.target in names and found.tokenizer_sha256 == tokenizer_sha256

    @property
    def tokenizer_sha256(self) -> str:
        return self.made_for.tokenizer_sha256 if self.made_for else self.files["tokenizer.json"].sha256

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(record.size for record in self.files.values())

    @property
    def half_precision(self) -> bool:
        """Whether it computes in float16, as GPUs want it."""
        return self.recipe.endswith(HALF_PRECISION)

    @property
    def pull_command(self) -> str:
        """The command that makes this bundle again."""
        if self.source.kind == "training":
            kind = "head" if self.table is None else "table"
            return shlex.join(["python", "-m", "export", kind, self.source.reference])
        words = ["edgespec", "pull"] if self.checks is None else ["python", "-m", "export", "hf"]
        words.append(self.source.reference)
        if self.head is not None:
            words += ["--head-of", self.head.target]
        elif self.quality is None:
            words += ["--keep-layers", format_layers(self.layers)]
        elif self.source.kind != "wheel":  # the catalog says how its own are stored
            words += ["--weights", self.recipe.split()[0].rstrip(":")]
        if self.head is None and self.half_precision:
            words += ["--profile", "cuda"]
        if self.name != self.source.reference:
            words += ["--name", self.name]
        return shlex.join(words)

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON values, `format` first."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        plain["source"] = asdict(self.source)
        plain["files"] = {name: asdict(record) for name, record in sorted(self.files.items())}
        plain["quality"] = asdict(self.quality) if self.quality else None
        plain["checks"] = asdict(self.checks) if self.checks else None
        plain["head"] = asdict(self.head) if self.head else None
        plain["table"] = asdict(self.table) if self.table else None
        return {"format": FORMAT, **plain}

    def write(self, directory: Path) -> None:
        """Write it to `directory`, as text that ends with a newline."""
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=True) + "\n"
        (directory / FILE_NAME).write_text(text, encoding="utf-8")


def check_name(name: str) -> str:
    """Return `name` if a bundle may be called that, else raise UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be a model's name: use up to 100 letters, digits, dots, dashes and underscores, "
            "beginning with a letter or digit"
        )
    return name


def format_layers(layers: Sequence[int]) -> str:
    """Layer numbers as ranges, the form that `--keep-layers` takes: (0, 1, 2, 5) is "0-2,5"."""
    ranges: list[list[int]] = []
    for layer in sorted(layers):
        if ranges and layer == ranges[-1][1] + 1:
            ranges[-1][1] = layer
        else:
            ranges.append([layer, layer])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in ranges)


def read_manifest(directory: Path) -> Manifest:
    """Read and check `edgespec.json` of a bundle.

    Raises: ModelError if it is missing, no plain file, of another format version, or not exactly what
    `Manifest.write` writes: every key there, of the right type, no others, plain file names only.
    """
    path = directory / FILE_NAME
    try:
        with open_plain(path) as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise MalformedError("it is larger than 1 MB")
        return _parse(load_strict(data))
    except ChecksumError as error:
        raise ModelError(f"{directory} holds no model: {error}") from error
    except MalformedError as error:
        raise ModelError(f"{path} is not a manifest this version can use: {error}") from error


def _parse(value: object) -> Manifest:
    top = JsonObject(value, "the manifest")
    version = top.take("format", int)
    if version not in _ADDED:
        raise MalformedError(f"its format is {version}, not {FORMAT}; update edgespec, or pull the model again")
    if unknown := _ADDED[version].keys() & top.values.keys():
        raise MalformedError(f"the manifest has an unknown key {min(unknown)!r}")
    top.values |= _ADDED[version]
    top.only(Manifest, "format")
    source = JsonObject(top.take("source", dict), "source")
    source.only(Source)
    kind = source.take("kind", str)
    if kind not in get_args(SourceKind):
        raise MalformedError(f"a source of kind {kind!r} is unknown")
    files = MappingProxyType(_files(JsonObject(top.take("files", dict), "files")))
    graph = top.take("graph", str)
    head, table = _head(top.values["head"]), _table(top.values["table"])
    for needed in (graph, "tokenizer.json") if head is None and table is None else (graph,):
        if needed not in files:
            raise MalformedError(f"files does not list {needed!r}")
    name = top.take("name", str)
    if not _NAME.fullmatch(name):
        raise MalformedError(f"{name!r} is no model's name")
    return Manifest(
        name=name,
        source=Source(
            cast(SourceKind, kind),
            source.take("reference", str),
            source.take_optional("revision"),
            source.digest("sha256"),
        ),
        license=top.take_optional("license"),
        architecture=top.take("architecture", str),
        files=files,
        graph=graph,
        context_length=top.count("context_length", minimum=1),
        vocab_size=top.count("vocab_size", minimum=1),
        eos_ids=top.counts("eos_ids"),
        layers=top.counts("layers"),
        recipe=top.take("recipe", str),
        quality=_quality(top.values["quality"]),
        checks=_checks(top.values["checks"]),
        draft=top.take_optional("draft"),
        head=head,
        table=table,
    )


def _files(entries: JsonObject) -> dict[str, FileRecord]:
    found: dict[str, FileRecord] = {}
    for name in entries.values:
        if not _NAME.fullmatch(name) or name == FILE_NAME:
            raise MalformedError(f"{name!r} is no plain file name")
        record = JsonObject(entries.values[name], f"files.{name}")
        record.only(FileRecord)
        found[name] = FileRecord(record.count("size"), record.digest("sha256"))
    return found


def _head(value: object) -> HeadRecord | None:
    if value is None:
        return None
    head = JsonObject(value, "head")
    head.only(HeadRecord)
    window = None if head.values["window"] is None else head.count("window", minimum=1)
    return HeadRecord(head.take("target", str), head.digest("tokenizer_sha256"), head.count("hidden_size", 1), window)


def _table(value: object) -> TableRecord | None:
    if value is None:
        return None
    table = JsonObject(value, "table")
    table.only(TableRecord)
    return TableRecord(table.take("target", str), table.digest("tokenizer_sha256"))


def _quality(value: object) -> Quality | None:
    if value is None:
        return None
    quality = JsonObject(value, "quality")
    quality.only(Quality)
    return Quality(quality.number("mean_kl"), quality.number("top1_agreement"), quality.count("tokens"))


def _checks(value: object) -> Checks | None:
    if value is None:
        return None
    checks = JsonObject(value, "checks")
    checks.only(Checks)
    parity = None if checks.values["parity"] is None else checks.number("parity")
    return Checks(parity, checks.count("memory"), checks.numbers("pass_ms"))
