"""A source on this disk -> a bundle: convert, measure what the conversion cost, refuse what lost too much, commit."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespec.bundle import Bundle, Manifest, Quality, Source
from edgespec.bundle.bundle import record_files
from edgespec.bundle.fetch import require_space
from edgespec.bundle.files import Progress
from edgespec.bundle.store import Staging
from edgespec.errors import ModelError

if TYPE_CHECKING:
    from edgespec.graph import Converted

CATALOG_MAX_KL = 0.01
CATALOG_MIN_AGREEMENT = 0.97
OWN_MIN_AGREEMENT = 0.90
"""A model that the catalog has pinned by its hash must come out as good as it was when it was added; any other must be
usable."""

# A 4-bit weight of a GGUF file takes 8.5 bits in the bundle and 32 in the float32 reference. A checkpoint's have 16.
_SPACE_PER_GGUF_BYTE = 2
_SPACE_WITH_GGUF_REFERENCE = 10
_SPACE_PER_CHECKPOINT_BYTE = 1
_SPACE_WITH_CHECKPOINT_REFERENCE = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """The bundle to make. `license` None: what the source says of itself. `keep_layers`: only those, for a draft, whose
    quality is not measured. `pinned`: whether the source's hash stands in the catalog."""

    name: str
    source: Source
    license: str | None = None
    keep_layers: tuple[int, ...] | None = None
    pinned: bool = False

    def made(self, bundle: Bundle) -> bool:
        """Whether `bundle` is what is asked for."""
        made = bundle.manifest
        layers = None if made.quality else made.layers
        return made.source.sha256 == self.source.sha256 and layers == self.keep_layers


def space_needed(wanted: Wanted, size: int, *, checkpoint: bool) -> int:
    """Bytes that `make` writes for a GGUF file or a checkpoint of `size` bytes, at most."""
    if checkpoint:
        return size * (_SPACE_PER_CHECKPOINT_BYTE if wanted.keep_layers else _SPACE_WITH_CHECKPOINT_REFERENCE)
    return size * (_SPACE_PER_GGUF_BYTE if wanted.keep_layers else _SPACE_WITH_GGUF_REFERENCE)


def make(wanted: Wanted, path: Path, staging: Staging, progress: Progress) -> Bundle:
    """Make the bundle from `path`, a GGUF file or the folder of a checkpoint. What an earlier call in the same staging
    finished is not done again.

    Raises: ModelError if it cannot be converted or comes out worse than it may, DownloadError if the disk is too small.
    """
    size = sum(file.stat().st_size for file in path.glob("*.safetensors")) if path.is_dir() else path.stat().st_size
    require_space(staging.scratch, space_needed(wanted, size, checkpoint=path.is_dir()))
    made = _converted(wanted, path, staging, progress)
    quality = None if wanted.keep_layers else _measure(wanted, path, staging, made.eos_ids, progress)
    progress("Storing the model", 0.0)
    bundle = staging.commit(_manifest(wanted, made, staging, quality))
    progress("Storing the model", 1.0)
    return bundle


def _converted(wanted: Wanted, path: Path, staging: Staging, progress: Progress) -> Converted:
    # onnx is slow to import and not needed to chat.
    from edgespec.graph import Converted, convert_checkpoint, convert_gguf

    def convert() -> dict[str, Any]:
        empty(staging.files)
        converter = convert_checkpoint if path.is_dir() else convert_gguf
        return asdict(converter(path, staging.files, keep_layers=wanted.keep_layers, progress=progress))

    found = staging.once("converted", [wanted.source.sha256, str(wanted.keep_layers)], convert)
    # JSON knows no tuples.
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
    return Converted(**fields)


def empty(directory: Path) -> None:
    """Make `directory` an empty one."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()


def _manifest(wanted: Wanted, made: Converted, staging: Staging, quality: Quality | None) -> Manifest:
    return Manifest(
        name=wanted.name,
        source=wanted.source,
        license=wanted.license or made.license,
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


def _measure(wanted: Wanted, path: Path, staging: Staging, eos_ids: Sequence[int], progress: Progress) -> Quality:
    """Compare the bundle with the source's weights in float32, and refuse it if it is worse than it may be."""
    from edgespec.graph import convert_checkpoint, convert_gguf
    from edgespec.quality import measure

    def compare() -> dict[str, Any]:
        reference = staging.scratch / "reference"
        empty(reference)
        converter = convert_checkpoint if path.is_dir() else convert_gguf
        converter(path, reference, weights="float32", progress=lambda _, done: progress("Preparing to measure", done))
        found = measure(staging.files, reference, eos_ids, progress)
        shutil.rmtree(reference)
        return asdict(found)

    quality = Quality(**staging.once("quality", [wanted.source.sha256], compare))
    if wanted.pinned:
        good = quality.mean_kl <= CATALOG_MAX_KL and _reaches(quality, CATALOG_MIN_AGREEMENT)
    else:
        good = _reaches(quality, OWN_MIN_AGREEMENT)
    if not good:
        raise ModelError(
            f"{wanted.name} lost too much in the conversion and was not kept: mean KL {quality.mean_kl:.4f}, "
            f"top-1 agreement {quality.top1_agreement:.1%}; try a source with more bits per weight"
        )
    return quality


def _reaches(quality: Quality, agreement: float) -> bool:
    """Whether the measured agreement is not below `agreement` by more than chance: two standard errors of a share."""
    error = math.sqrt(agreement * (1.0 - agreement) / quality.tokens)
    return quality.top1_agreement >= agreement - 2.0 * error
