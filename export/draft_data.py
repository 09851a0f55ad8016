"""What a head is trained on, as files: waves of conversations, with what the target thought of each token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgespec.chat.tokenizer import Tokenizer
from export.conversations import OPENERS, TEMPLATE, ChatIds, write_wave
from export.torch_llama import TorchLlama

_SHORT, _LONG = (224, 320), (128, 512)
_CYCLE: Final = 12
_LONG_IN_CYCLE: Final = 2
"""Sequences and tokens of a wave; so many of so many are longer."""

_NAMES: Final = ("tokens", "roles", "starts", "taps", "top_ids", "top_logits")


@dataclass(frozen=True, slots=True)
class Batch:
    """B sequences of T tokens; see `conversations.write_wave`, but all indexes are int64."""

    tokens: Tensor
    roles: Tensor
    starts: Tensor
    taps: Tensor
    top_ids: Tensor
    top_logits: Tensor


def write_waves(
    target: TorchLlama,
    ids: ChatIds,
    tokenizer: Tokenizer,
    folder: Path,
    tokens: int,
    progress: Callable[[float], None],
) -> list[Path]:
    """Have the target write until `folder` holds `tokens` tokens; what is there already counts. Returns the waves.

    A wave is written whole or not at all. Raises: OSError if the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    openers = [tuple(tokenizer.encode(opener.rstrip())) for opener in OPENERS]
    waves: list[Path] = []
    there = 0
    while there < tokens:
        path = folder / f"wave-{len(waves):04d}.safetensors"
        batch, length = _LONG if len(waves) % _CYCLE >= _CYCLE - _LONG_IN_CYCLE else _SHORT
        length = min(length, target.config.context_length)
        if not path.exists():
            share = batch * length / tokens
            wave = write_wave(
                target,
                ids,
                openers,
                batch=batch,
                length=length,
                seed=len(waves),
                progress=lambda done, before=there / tokens, share=share: progress(min(before + done * share, 1.0)),
            )
            partial = path.with_suffix(".partial")
            save_file(wave, partial)
            partial.replace(path)
        there += _tokens_of(path)
        waves.append(path)
    return waves


def count_tokens(waves: Sequence[Path]) -> int:
    """How many tokens they hold."""
    return sum(_tokens_of(path) for path in waves)


def _tokens_of(wave: Path) -> int:
    with safe_open(wave, "pt") as file:
        return int(np.prod(file.get_slice("tokens").get_shape()))


def batch_places(waves: Sequence[Path], size: int) -> list[tuple[Path, int]]:
    """Where batches of `size` sequences begin. What is left over of a wave is left out."""
    places: list[tuple[Path, int]] = []
    for path in waves:
        with safe_open(path, "pt") as file:
            sequences = file.get_slice("tokens").get_shape()[0]
        places += [(path, start) for start in range(0, sequences - size + 1, size)]
    return places


def read_batch(path: Path, start: int, size: int) -> Batch:
    with safe_open(path, "pt") as file:
        part: dict[str, Tensor] = {name: file.get_slice(name)[start : start + size] for name in _NAMES}
    return Batch(**(part | {name: part[name].long() for name in ("tokens", "starts", "top_ids")}))


def token_counts(waves: Sequence[Path], vocab_size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """How often the target itself said each token: int64 [vocab_size]."""
    counts = np.zeros(vocab_size, np.int64)
    for path in waves:
        with safe_open(path, "pt") as file:
            said = file.get_tensor("tokens")[file.get_tensor("roles") != TEMPLATE]
        counts += torch.bincount(said, minlength=vocab_size).numpy()
    return counts
