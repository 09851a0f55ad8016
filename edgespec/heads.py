"""Heads that others trained: fetched, converted for one of the models here, kept as bundles that draft for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgespec.bundle import Bundle, HeadRecord, Manifest, Source, Store
from edgespec.bundle.bundle import record_files
from edgespec.bundle.catalog import WheelSource, load_catalog
from edgespec.bundle.files import Progress, no_progress
from edgespec.bundle.hub import HubReference, look_up
from edgespec.bundle.hub_download import fetch_files
from edgespec.bundle.manifest import CUDA_SUFFIX, HALF_PRECISION, check_name
from edgespec.bundle.store import Staging
from edgespec.errors import ModelError, UsageError
from edgespec.pull import digest, fetched_into, find, work_name

if TYPE_CHECKING:
    from edgespec.graph.eagle import HeadConfig
    from edgespec.graph.formats import WeightsName


def pull_head(
    reference: str,
    target: str,
    store: Store,
    *,
    name: str | None = None,
    weights: WeightsName = "int8",
    progress: Progress = no_progress,
) -> Bundle:
    """The EAGLE-3 head in a repository of the Hub, OWNER/NAME[@REVISION], or in a folder, for the bundle `target`, and
    for the device that this one is made for.

    Raises: as `edgespec.pull.pull`; ModelError if it is no head, or not for a model with the target's tokens.
    """
    bundle = store.get(target, progress)
    if bundle.manifest.made_for is not None:
        raise UsageError(f"{target} is a draft itself; name the model that the new one is to draft for.")
    origin, base, license_name = find(reference, load_catalog())
    if isinstance(origin, WheelSource) or (isinstance(origin, Path) and not origin.is_dir()):
        raise UsageError(f"{reference} is a model; --head-of takes a head, OWNER/NAME of the Hub or its folder.")
    name = check_name(name or base + (CUDA_SUFFIX if bundle.manifest.half_precision else ""))
    if name in store.names():
        raise ModelError(
            f"there is a model {name} already; give this one another name with --name, or delete that one with "
            f"`edgespec rm {name}`"
        )
    if isinstance(origin, HubReference):
        model = look_up(origin)
        with store.staging(progress, resume=work_name(model)) as staging:
            folder = fetched_into(staging.scratch, model)
            fetch_files(model, folder, progress)
            source = Source("hub", reference, model.revision, model.sha256)
            return keep_head(staging, folder, bundle, name, source, license_name or model.license, weights)
    with store.staging(progress) as staging:
        source = Source("folder", str(origin), None, digest(origin, progress))
        return keep_head(staging, origin, bundle, name, source, license_name, weights)


def keep_head(
    staging: Staging,
    folder: Path,
    target: Bundle,
    name: str,
    source: Source,
    license_name: str | None,
    weights: WeightsName,
    describe: Callable[[Path], Sequence[str]] = lambda _: (),
) -> Bundle:
    """Convert the head in `folder` and make it a bundle, in half precision if that is what its target is in. `describe`
    may write more files; it returns their names.

    Raises: ModelError if it cannot be converted.
    """
    # onnx is slow to import and not needed to chat.
    from edgespec.graph.eagle_checkpoint import convert_head
    from edgespec.graph.formats import FORMATS

    half = target.manifest.half_precision
    config: HeadConfig = convert_head(
        folder, staging.files, target_vocab_size=target.vocab_size, weights=weights, profile="cuda" if half else "cpu"
    )
    files = ("model.onnx", "model.onnx.data", *describe(staging.files))
    return staging.commit(
        Manifest(
            name=name,
            source=source,
            license=license_name,
            architecture="eagle3",
            files=record_files(staging.files, files),
            graph="model.onnx",
            context_length=min(config.context_length, target.context_length),
            vocab_size=target.vocab_size,
            eos_ids=(),
            layers=(),
            recipe=FORMATS[weights].recipe + (HALF_PRECISION if half else ""),
            quality=None,
            head=HeadRecord(target.name, target.tokenizer_sha256, config.tapped_size, config.window),
        )
    )
