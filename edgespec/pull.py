"""Get a model: fetch it, check it, convert it, measure what the conversion cost, and put it into the store."""

from __future__ import annotations

import contextlib
import difflib
import errno
import math
import os
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgespec.bundle import Bundle, Manifest, Quality, Source, Store
from edgespec.bundle.bundle import record_files
from edgespec.bundle.catalog import Catalog, Pair, load_catalog
from edgespec.bundle.fetch import fetch_member, require_space
from edgespec.bundle.files import Progress, no_progress, sha256
from edgespec.bundle.manifest import check_name, format_layers
from edgespec.bundle.store import Staging
from edgespec.errors import ChecksumError, DownloadError, ModelError, UsageError

CATALOG_MAX_KL = 0.01
CATALOG_MIN_AGREEMENT = 0.97
OWN_MIN_AGREEMENT = 0.90
"""A catalog's model must come out as good as it was when it was added; a file of the user's must be usable."""

# A 4-bit weight takes 8.5 bits in the bundle and 32 in the float32 reference.
_SPACE_PER_SOURCE_BYTE = 2
_SPACE_WITH_REFERENCE = 10


@dataclass(frozen=True, slots=True)
class _Request:
    """What to make, after the reference was understood: a pair of the catalog, or a GGUF file of the user's."""

    name: str
    source: Source
    origin: Pair | Path
    keep_layers: tuple[int, ...] | None

    def made(self, bundle: Bundle) -> bool:
        """Whether `bundle` is what is asked for."""
        made = bundle.manifest
        layers = None if made.quality else made.layers
        return made.source.sha256 == self.source.sha256 and layers == self.keep_layers


def pull(
    reference: str,
    store: Store,
    *,
    name: str | None = None,
    keep_layers: Sequence[int] | None = None,
    offline: bool = False,
    progress: Progress = no_progress,
    catalog: Catalog | None = None,
) -> Bundle:
    """The bundle that `reference`, a name of the catalog or the path of a GGUF file, stands for, made if need be.

    `name` is what to call it: the catalog's name or the file's by default. `keep_layers` keeps only those of the
    source's layers, which makes a draft of it. What `progress` raises stops it; then, as after every error and even
    kill -9, the store has the whole bundle or none.

    Raises: UsageError for a name or layers that cannot be, ModelError if the model is unknown, cannot be converted,
    or comes out worse than it may, or the name is taken; DownloadError if it cannot be fetched or the disk is full;
    ChecksumError if what was fetched is not what the catalog pins.
    """
    request = _understand(reference, name, keep_layers, catalog or load_catalog(), progress)
    if (found := _present(request, store, progress)) is not None:
        return found
    if offline and isinstance(request.origin, Pair):
        raise DownloadError(
            f"{reference} is not on this machine and --offline was given; run `edgespec pull {reference}` without it"
        )
    with _disk_errors(store), store.staging(progress) as staging:
        # Another process may have made it while this one waited for the lock.
        return _present(request, store, progress) or _make(request, staging, progress)


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


def _understand(
    reference: str, name: str | None, keep_layers: Sequence[int] | None, catalog: Catalog, progress: Progress
) -> _Request:
    layers = None if keep_layers is None else _ordered(keep_layers)
    origin: Pair | Path
    if pair := catalog.pairs.get(reference):
        origin, base = pair, pair.name
        source = Source("wheel", pair.name, pair.source.requirement, pair.source.member_sha256)
    elif os.sep in reference or reference.endswith(".gguf"):
        origin = _own_file(reference)
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", origin.stem).strip("-._").lower()
        source = Source("gguf", str(origin), None, _digest(origin, progress))
    else:
        raise _unknown(reference, catalog)
    if name is None and layers is not None:
        base = f"{base}-layers-{format_layers(layers).replace(',', '_')}"
    return _Request(check_name(name or base), source, origin, layers)


def _own_file(reference: str) -> Path:
    # Download caches keep such files behind links: what counts is where the link leads.
    path = Path(reference).expanduser().resolve()
    if not path.is_file():
        raise ModelError(f"there is no file {reference}; give the path of a GGUF file or a name of the catalog")
    return path


def _digest(path: Path, progress: Progress) -> str:
    size = max(path.stat().st_size, 1)
    try:
        with path.open("rb") as file:
            return sha256(file, lambda done: progress("Reading the file", min(done / size, 1.0)))
    except PermissionError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _unknown(reference: str, catalog: Catalog) -> ModelError:
    close = difflib.get_close_matches(reference, catalog.pairs, n=1)
    hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(sorted(catalog.pairs))}"
    return ModelError(f"the catalog has no model {reference}; {hint} The path of a .gguf file works too.")


def _present(request: _Request, store: Store, progress: Progress) -> Bundle | None:
    """The bundle if the store has it whole, every hash computed now; None if it is missing or damaged."""
    try:
        bundle = store.verify(request.name, progress)
    except (ModelError, ChecksumError):
        return None
    if not request.made(bundle):
        raise ModelError(
            f"there is a model {request.name} already, made from {bundle.manifest.source.reference} in another way; "
            f"give this one another name with --name, or delete that one with `edgespec rm {request.name}`"
        )
    return bundle


def _make(request: _Request, staging: Staging, progress: Progress) -> Bundle:
    # onnx is slow to import and not needed to chat.
    from edgespec.graph import convert_gguf

    gguf = request.origin
    if isinstance(gguf, Pair):
        gguf = fetch_member(gguf.source, staging.scratch, progress)
    factor = _SPACE_PER_SOURCE_BYTE if request.keep_layers else _SPACE_WITH_REFERENCE
    require_space(staging.scratch, factor * gguf.stat().st_size)
    made = convert_gguf(gguf, staging.files, keep_layers=request.keep_layers, progress=progress)
    quality = None if request.keep_layers else _measure(request, gguf, staging, made.eos_ids, progress)
    progress("Storing the model", 0.0)
    manifest = Manifest(
        name=request.name,
        source=request.source,
        license=request.origin.license if isinstance(request.origin, Pair) else made.license,
        architecture=made.architecture,
        files=record_files(staging.files, made.files),
        graph="model.onnx",
        context_length=made.context_length,
        vocab_size=made.vocab_size,
        eos_ids=made.eos_ids,
        layers=made.layers,
        recipe=made.recipe,
        quality=quality,
    )
    bundle = staging.commit(manifest)
    progress("Storing the model", 1.0)
    return bundle


def _measure(request: _Request, gguf: Path, staging: Staging, eos_ids: Sequence[int], progress: Progress) -> Quality:
    """Compare the bundle with the source's weights in float32, and refuse it if it is worse than it may be."""
    from edgespec.graph import convert_gguf
    from edgespec.quality import measure

    reference = staging.scratch / "reference"
    reference.mkdir()
    convert_gguf(gguf, reference, weights="float32", progress=lambda _, done: progress("Preparing to measure", done))
    quality = measure(staging.files, reference, eos_ids, progress)
    if isinstance(request.origin, Pair):
        good = quality.mean_kl <= CATALOG_MAX_KL and _reaches(quality, CATALOG_MIN_AGREEMENT)
    else:
        good = _reaches(quality, OWN_MIN_AGREEMENT)
    if not good:
        raise ModelError(
            f"{request.name} lost too much in the conversion and was not kept: mean KL {quality.mean_kl:.4f}, "
            f"top-1 agreement {quality.top1_agreement:.1%}; try a source with more bits per weight"
        )
    return quality


def _reaches(quality: Quality, agreement: float) -> bool:
    """Whether the measured agreement is not below `agreement` by more than chance: two standard errors of a share."""
    error = math.sqrt(agreement * (1.0 - agreement) / quality.tokens)
    return quality.top1_agreement >= agreement - 2.0 * error


@contextlib.contextmanager
def _disk_errors(store: Store) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(
                f"the disk of {store.root} is full; nothing was kept; "
                "free some space, or set EDGESPEC_HOME to a directory on another disk"
            ) from error
        raise
