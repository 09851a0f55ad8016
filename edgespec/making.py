"""A source on this disk -> a bundle: convert, measure what the conversion cost, refuse what lost too much, commit."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgespec.bundle import Bundle, Checks, Manifest, Quality, Source
from edgespec.bundle.bundle import record_files
from edgespec.bundle.fetch import require_space
from edgespec.bundle.files import Progress
from edgespec.bundle.manifest import CUDA_SUFFIX
from edgespec.bundle.store import Staging
from edgespec.errors import ModelError

if TYPE_CHECKING:
    from edgespec.graph import Converted
    from edgespec.graph.builder import Profile
    from edgespec.graph.formats import WeightsName

CATALOG_MAX_KL = 0.01
CATALOG_MIN_AGREEMENT = 0.97
KEPT_MAX_KL = 0.01
OWN_MIN_AGREEMENT = 0.90
"""A model that the catalog has pinned by its hash must come out as good as it was when it was added; 4-bit values of a
file are kept as they are if that costs next to nothing; any other model must be usable."""

_FORMATS: tuple[WeightsName, ...] = ("int4", "mixed", "int8")
"""From the smallest to the one that keeps most."""

# A 4-bit weight of a GGUF file takes 8.5 bits in the bundle. A checkpoint's have 16, and 32 in float32.
_SPACE_PER_GGUF_BYTE = 2
_SPACE_PER_CHECKPOINT_BYTE = 1
_SPACE_WITH_FLOAT32 = 3


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


class Converter(Protocol):
    """Writes the model at `source` as bundle files into `out`, as `edgespec.graph.convert_checkpoint` does."""

    def __call__(
        self,
        source: Path,
        out: Path,
        *,
        weights: WeightsName,
        profile: Profile = "cpu",
        keep_layers: Sequence[int] | None = None,
        progress: Progress,
    ) -> Converted: ...


Float32 = Callable[[], Path]
"""Converts the same model to float32, unless that was done before; returns the directory."""

Inspect = Callable[[Path, Path, Float32, "Converted", Progress], Checks]
"""Looks at a bundle before it is one: takes the source, the bundle's files, the same model in float32, what was
converted, and progress. Raises ModelError for what may not be kept."""


class Reference(Protocol):
    """What the weights of a model mean, as `edgespec.graph.reference_logits`; `float32` is there for whoever needs a
    graph to tell."""

    def __call__(
        self,
        source: Path,
        texts: Sequence[tuple[Sequence[int], int]],
        vocab_size: int,
        progress: Callable[[float], None],
        *,
        float32: Float32,
    ) -> Iterator[NDArray[np.float32]]: ...


def convert(
    source: Path,
    out: Path,
    *,
    weights: WeightsName,
    profile: Profile = "cpu",
    keep_layers: Sequence[int] | None = None,
    progress: Progress,
) -> Converted:
    """A GGUF file or a checkpoint's folder as edgespec's own graph. Raises: as `edgespec.graph.convert_gguf`."""
    # onnx is slow to import and not needed to chat.
    from edgespec.graph import convert_checkpoint, convert_gguf

    converter = convert_checkpoint if source.is_dir() else convert_gguf
    return converter(source, out, weights=weights, profile=profile, keep_layers=keep_layers, progress=progress)


def stream_reference(
    source: Path,
    texts: Sequence[tuple[Sequence[int], int]],
    vocab_size: int,
    progress: Callable[[float], None],
    *,
    float32: Float32,  # noqa: ARG001
) -> Iterator[NDArray[np.float32]]:
    """A `Reference` that needs neither a graph nor the memory for one."""
    from edgespec.graph import reference_logits

    return reference_logits(source, texts, vocab_size, progress)


@dataclass(frozen=True, slots=True)
class Tools:
    """How a bundle is made. `weights` None: in the fastest format that loses no more than it may. `reference`: what its
    quality is measured against. `inspect`: what else is found out about it, to stand in its manifest. `force`: keep it
    whatever it lost. `draft`: the bundle that is to draft for it. `profile`: what it is to compute on."""

    weights: WeightsName | None = None
    convert: Converter = convert
    reference: Reference = stream_reference
    inspect: Inspect | None = None
    force: bool = False
    draft: str | None = None
    profile: Profile = "cpu"

    @property
    def suffix(self) -> str:
        """What tells the names of such bundles apart."""
        return "" if self.profile == "cpu" else CUDA_SUFFIX

    def made(self, bundle: Bundle) -> bool:
        """Whether `bundle` has what these find out."""
        found = bundle.manifest
        return (self.inspect is None or found.checks is not None) and self.draft in (None, found.draft)

    def weights_made(self, bundle: Bundle) -> bool:
        """Whether the weights of `bundle` are of the format asked for, with whose name a recipe begins, and for the
        device."""
        same = bundle.manifest.half_precision == (self.profile == "cuda")
        return same and (self.weights is None or bundle.manifest.recipe.startswith(self.weights))


def space_needed(size: int, *, checkpoint: bool, inspected: bool) -> int:
    """Bytes that `make` writes for a GGUF file or a checkpoint of `size` bytes, at most; more if it is
    `inspected`."""
    if checkpoint:
        return size * (_SPACE_WITH_FLOAT32 if inspected else _SPACE_PER_CHECKPOINT_BYTE)
    return size * _SPACE_PER_GGUF_BYTE


def make(wanted: Wanted, path: Path, tools: Tools, staging: Staging, progress: Progress) -> Bundle:
    """Make the bundle from `path`, a GGUF file or the folder of a checkpoint. What an earlier call in the same staging
    finished is not done again.

    Raises: ModelError if it cannot be converted or comes out worse than it may, DownloadError if the disk is too small.
    """
    size = sum(file.stat().st_size for file in path.glob("*.safetensors")) if path.is_dir() else path.stat().st_size
    require_space(staging.scratch, space_needed(size, checkpoint=path.is_dir(), inspected=tools.inspect is not None))
    making = _Making(wanted, path, tools, staging, progress)
    made, quality = making.fastest_good()
    checks = making.inspect(made) if tools.inspect and quality else None
    progress("Storing the model", 0.0)
    bundle = staging.commit(making.manifest(made, quality, checks))
    progress("Storing the model", 1.0)
    return bundle


@dataclass(frozen=True, slots=True)
class _Making:
    """What the stages of one bundle share. Each is noted when it is finished, under what it depends on."""

    wanted: Wanted
    path: Path
    tools: Tools
    staging: Staging
    progress: Progress

    def fastest_good(self) -> tuple[Converted, Quality | None]:
        """The first of the formats to try that loses no more than it may. Raises: ModelError if none does."""
        *tried, last = self._formats()
        for weights in tried:
            made = self.convert("converted", self.staging.files, weights, self.progress)
            quality = self.measure(made, weights)
            # A file that has four bits already lost what it had to: the conversion is to add nothing to that.
            if self._good_enough(quality) and (weights != "kept" or quality.mean_kl <= KEPT_MAX_KL):
                return made, quality
        made = self.convert("converted", self.staging.files, last, self.progress)
        if self.wanted.keep_layers is not None:
            return made, None
        quality = self.measure(made, last)
        if not self.tools.force and not self._good_enough(quality):
            raise self._worse(quality, made, last)
        return made, quality

    def _formats(self) -> tuple[WeightsName, ...]:
        """What to try, the fastest first: just int8 for a draft, which is not measured, and for the small model that
        the catalog pins where nodes cost more than bytes."""
        if self.tools.weights is not None:
            return (self.tools.weights,)
        if self.wanted.keep_layers is not None or (self.wanted.pinned and self.tools.profile == "cuda"):
            return ("int8",)
        from edgespec.graph import formats_to_try

        return formats_to_try(self.path)

    def convert(self, stage: str, out: Path, weights: WeightsName, progress: Progress) -> Converted:
        layers = self.wanted.keep_layers
        profile: Profile = "cpu" if weights == "float32" else self.tools.profile

        def work() -> dict[str, Any]:
            empty(out)
            make = self.tools.convert
            return asdict(make(self.path, out, weights=weights, profile=profile, keep_layers=layers, progress=progress))

        from edgespec.graph import Converted

        found = self.staging.once(stage, self._key(weights, str(layers), profile), work)
        # JSON knows no tuples.
        fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in found.items()}
        return Converted(**fields)

    def float32(self) -> Path:
        """The same model in float32."""
        directory = self.staging.scratch / "float32"
        self.convert("float32", directory, "float32", self._as("Preparing to measure"))
        return directory

    def measure(self, made: Converted, weights: WeightsName) -> Quality:
        """How far the bundle is from the source's weights in float32."""
        return self._quality("quality", self.staging.files, weights, made, self.progress)

    def _worse(self, quality: Quality, made: Converted, weights: WeightsName) -> ModelError:
        """What to raise for a model that is worse than it may be, naming a format that would do."""
        return ModelError(
            f"{self.wanted.name} lost too much in the conversion and was not kept: mean KL {quality.mean_kl:.4f}, "
            f"top-1 agreement {quality.top1_agreement:.1%}; {self._advice(made, weights)}"
        )

    def inspect(self, made: Converted) -> Checks:
        def work() -> dict[str, Any]:
            if self.tools.inspect is None:
                raise TypeError("there is nothing to inspect it with")
            return asdict(self.tools.inspect(self.path, self.staging.files, self.float32, made, self.progress))

        found = self.staging.once("checks", self._key(made.recipe), work)
        return Checks(found["parity"], found["memory"], tuple(found["pass_ms"]))

    def manifest(self, made: Converted, quality: Quality | None, checks: Checks | None) -> Manifest:
        return Manifest(
            name=self.wanted.name,
            source=self.wanted.source,
            license=self.wanted.license or made.license,
            architecture=made.architecture,
            files=record_files(self.staging.files, made.files),
            graph="model.onnx",
            context_length=made.context_length,
            vocab_size=made.vocab_size,
            eos_ids=made.eos_ids,
            layers=made.layers,
            recipe=made.recipe,
            quality=quality,
            checks=checks,
            draft=self.tools.draft,
        )

    def _advice(self, made: Converted, refused: WeightsName) -> str:
        """Tries the formats that keep more, the smallest first."""
        other = self.staging.scratch / "other"
        for weights in _FORMATS[_FORMATS.index(refused) + 1 :] if refused in _FORMATS else ():
            stage = f"Trying {weights}"
            self.convert(f"converted-{weights}", other, weights, self._as(stage))
            quality = self._quality(f"quality-{weights}", other, weights, made, self._as(stage))
            if self._good_enough(quality):
                return f"--weights {weights} would do, with an agreement of {quality.top1_agreement:.1%}"
        return "try a source with more bits per weight"

    def _quality(self, stage: str, files: Path, weights: str, made: Converted, progress: Progress) -> Quality:
        from edgespec.quality import measure

        def work() -> dict[str, Any]:
            against = partial(self.tools.reference, self.path, float32=self.float32)
            return asdict(measure(files, against, made.vocab_size, made.eos_ids, progress))

        return Quality(**self.staging.once(stage, self._key(weights), work))

    def _good_enough(self, quality: Quality) -> bool:
        if self.wanted.pinned:
            return quality.mean_kl <= CATALOG_MAX_KL and _reaches(quality, CATALOG_MIN_AGREEMENT)
        return _reaches(quality, OWN_MIN_AGREEMENT)

    def _as(self, stage: str) -> Progress:
        return lambda _, done: self.progress(stage, done)

    def _key(self, *parts: str) -> list[str]:
        return [self.wanted.source.sha256, *parts]


def empty(directory: Path) -> None:
    """Make `directory` an empty one."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()


def _reaches(quality: Quality, agreement: float) -> bool:
    """Whether the measured agreement is not below `agreement` by more than chance: two standard errors of a share."""
    error = math.sqrt(agreement * (1.0 - agreement) / quality.tokens)
    return quality.top1_agreement >= agreement - 2.0 * error
