"""Training an EAGLE-3 head (Li et al. 2025, arXiv:2503.01840) on what its target wrote: data, head, curve, files.

Every stage leaves files, and a later call goes on behind the last one: waves of data, checkpoints of the training.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file
from torch import Tensor

from export.conversations import ANSWER, TEMPLATE, ChatIds
from export.draft_data import Batch, batch_places, read_batch, token_counts
from export.eagle_head import ROPE_BASE, EagleHead, frequent_words, new_head
from export.soft_loss import soft_loss
from export.torch_llama import TorchLlama

_WARM_UP: Final = 50
_LEAST_RATE: Final = 0.05
_LATER_STEP: Final = 0.8
"""What a step counts beside the one before it (the paper's weights)."""
_EVERY: Final = 100
"""Steps between two looks at the held-out wave, and two checkpoints."""
_TESTED_BATCHES: Final = 6

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a head is trained. tokens: of data. words: how many of the target's tokens it knows. unrolled: steps on its
    own states. window: positions that it attends to. sequences: of a batch. rate: the highest learning rate."""

    tokens: int = 5_000_000
    words: int = 8192
    unrolled: int = 3
    window: int = 256
    epochs: int = 3
    sequences: int = 16
    rate: float = 1e-3


@dataclass(frozen=True, slots=True)
class Point:
    """The training after `tokens` tokens: the mean loss since the point before, and on the held-out wave's answers how
    often a proposal was the target's own choice, by position, where those before it were."""

    tokens: int
    loss: float
    acceptance: tuple[float, ...]

    @property
    def tokens_per_round(self) -> float:
        """With drafts as long as was unrolled."""
        return 1.0 + float(np.cumprod(self.acceptance).sum())


class Training:
    """One training in the directory `folder`, which exists. The last of `waves` is held out."""

    def __init__(self, target: TorchLlama, ids: ChatIds, waves: Sequence[Path], folder: Path, recipe: Recipe) -> None:
        self._target, self.recipe, self._folder = target, recipe, folder
        self._places = batch_places(waves[:-1], recipe.sequences)
        self._held_out = batch_places(waves[-1:], recipe.sequences)[:_TESTED_BATCHES]
        counts = token_counts(waves[:-1], target.config.vocab_size)
        self.words = frequent_words(counts, recipe.words, {ids.end, *ids.to_answer, *ids.to_user})
        self.known_share = float(counts[self.words.numpy()].sum() / counts.sum())
        self._lookup = torch.full((target.config.vocab_size,), -1)
        self._lookup[self.words] = torch.arange(recipe.words)
        torch.manual_seed(0)
        self.head = new_head(target, self.words, recipe.window)
        self._optimizer = torch.optim.AdamW(self.head.parameters(), lr=recipe.rate, betas=(0.9, 0.95), weight_decay=0.0)
        self.points: list[Point] = []

    @property
    def tokens_per_epoch(self) -> int:
        return self.points[-1].tokens // self.recipe.epochs if self.points else 0

    @property
    def steps(self) -> int:
        return len(self._places) * self.recipe.epochs

    def run(self, progress: Progress) -> None:
        """Train to the end, from the last checkpoint if there is one."""
        step, tokens, losses = self._resume(), self.points[-1].tokens if self.points else 0, list[float]()
        while step < self.steps:
            batch = self._read(self._place(step))
            losses.append(self._learn(batch, step))
            step, tokens = step + 1, tokens + batch.tokens.numel()
            if step % _EVERY == 0 or step == self.steps:
                self.points.append(Point(tokens, float(np.mean(losses)), self.acceptance()))
                losses.clear()
                self._save(step)
            progress("Training", step / self.steps)

    @torch.no_grad()
    def acceptance(self) -> tuple[float, ...]:
        """On the held-out wave's answers; see Point."""
        hits, tested = np.zeros(self.recipe.unrolled), np.zeros(self.recipe.unrolled)
        for place in self._held_out:
            batch = self._read(place)
            alive = torch.ones(1, dtype=torch.bool)
            for step, (state, later, counted) in enumerate(self._steps(batch)):
                rows = counted & alive & (_shifted(batch.roles, later, counted) == ANSWER)
                proposed = self.words[self._logits(state[rows]).argmax(dim=-1).cpu()]
                right = proposed == _shifted(batch.top_ids, later - 1, counted)[rows][:, 0]
                alive = torch.zeros_like(rows)
                alive[rows] = right
                hits[step] += int(right.sum())
                tested[step] += int(rows.sum())
        return tuple((hits / np.maximum(tested, 1)).tolist())

    def _learn(self, batch: Batch, step: int) -> float:
        """One step down; returns the loss in nats per token and step on the head's own states."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.rate * self._share_of_rate(step)
        total = torch.zeros((), device=self._target.device)
        weights = _LATER_STEP ** np.arange(self.recipe.unrolled)
        for weight, (state, later, counted) in zip(weights, self._steps(batch), strict=True):
            ids = self._lookup[_shifted(batch.top_ids, later - 1, counted)[counted]]
            p = _shifted(batch.top_logits, later - 1, counted)[counted].float().softmax(dim=-1) * (ids >= 0)
            device = self._target.device
            x, matrix = state[counted.to(device)], self.head.lm_head.weight.to(state.dtype)
            loss = soft_loss(x, matrix, ids.clamp(min=0).to(device), p.to(device))
            total = total + loss / max(int(counted.sum()), 1) * (weight / weights.sum())
        self._optimizer.zero_grad()
        torch.autograd.backward(total)
        torch.nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)
        self._optimizer.step()
        return float(total.detach())

    def _steps(self, batch: Batch) -> Iterator[tuple[Tensor, int, Tensor]]:
        """For each step on the head's own states: the states [B, R, D] of its rows, by how much the token that they
        tell stands behind a row, and for which rows bool [B, R] that token is the target's own word in the same
        conversation."""
        unrolled, device = self.recipe.unrolled, self._target.device
        rows = batch.tokens.shape[1] - unrolled - 1
        embedded = F.embedding(batch.tokens[:, 1 : rows + unrolled].to(device), self._target.embedding)
        at = torch.arange(rows)
        behind = at[:, None] - at
        near = (behind >= 0) & (behind < self.recipe.window)
        mask = near & (at[None, None] >= batch.starts[:, :rows, None])
        taps = batch.taps[:, :rows].to(device, self._target.dtype)
        states = self.head.unrolled(embedded, taps, mask[:, None].to(device), unrolled)
        for step, state in enumerate(states):
            later = step + 2
            said = _shifted(batch.roles, later, at) != TEMPLATE
            yield state, later, said & (_shifted(batch.starts, later, at) == batch.starts[:, :rows])

    def _logits(self, state: Tensor) -> Tensor:
        return F.linear(state, self.head.lm_head.weight.to(state.dtype))

    def _place(self, step: int) -> tuple[Path, int]:
        epoch, place = divmod(step, len(self._places))
        return self._places[int(np.random.default_rng(epoch).permutation(len(self._places))[place])]

    def _read(self, place: tuple[Path, int]) -> Batch:
        return read_batch(*place, self.recipe.sequences)

    def _share_of_rate(self, step: int) -> float:
        """Up for the first steps, then down along a cosine."""
        left = 0.5 + 0.5 * math.cos(math.pi * step / self.steps)
        return min((step + 1) / _WARM_UP, 1.0) * (_LEAST_RATE + (1.0 - _LEAST_RATE) * left)

    @property
    def _checkpoint(self) -> Path:
        return self._folder / "training.pt"

    @property
    def _what(self) -> dict[str, Any]:
        """What a checkpoint must agree on to be gone on from."""
        return {"recipe": asdict(self.recipe), "words": self.words.tolist(), "batches": len(self._places)}

    def _save(self, step: int) -> None:
        state = {"step": step, "head": self.head.state_dict(), "optimizer": self._optimizer.state_dict()}
        partial = self._checkpoint.with_suffix(".partial")
        torch.save({**state, "what": self._what, "points": [asdict(p) for p in self.points]}, partial)
        partial.replace(self._checkpoint)

    def _resume(self) -> int:
        """The step that the last checkpoint of this very training was taken behind."""
        if not self._checkpoint.exists():
            return 0
        saved = torch.load(self._checkpoint, weights_only=True, map_location=self._target.device)
        if saved["what"] != self._what:
            return 0
        self.head.load_state_dict(saved["head"])
        self._optimizer.load_state_dict(saved["optimizer"])
        self.points = [Point(**(point | {"acceptance": tuple(point["acceptance"])})) for point in saved["points"]]
        return int(saved["step"])


def _shifted(values: Tensor, by: int, rows: Tensor) -> Tensor:
    """What stands `by` places behind each row: [B, R, ...]. The last dimension of `rows` is R."""
    return values[:, by : by + rows.shape[-1]]


def save_head(head: EagleHead, words: Tensor, folder: Path) -> None:
    """Write the head as EAGLE-3's authors publish theirs, bfloat16, into `folder`, made if need be."""
    c = head.config
    sizes = [c.heads * c.head_size, c.kv_heads * c.head_size, c.kv_heads * c.head_size]
    query, key, value = head.qkv.weight.split(sizes)
    gate, up = head.gate_up.weight.chunk(2)
    layer = {
        "self_attn.q_proj": query,
        "self_attn.k_proj": key,
        "self_attn.v_proj": value,
        "self_attn.o_proj": head.output.weight,
        "mlp.gate_proj": gate,
        "mlp.up_proj": up,
        "mlp.down_proj": head.down.weight,
        "input_layernorm": head.embedding_norm,
        "hidden_norm": head.feature_norm,
        "post_attention_layernorm": head.ffn_norm,
    }
    tensors = {f"midlayer.{name}": tensor for name, tensor in layer.items()}
    tensors |= {"fc": head.fc.weight, "norm": head.norm, "lm_head": head.lm_head.weight}
    written = {f"{name}.weight": t.detach().to("cpu", torch.bfloat16).contiguous() for name, t in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({**written, "d2t": words - torch.arange(len(words))}, folder / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLMEagle3"],
        "hidden_size": c.hidden_size,
        "intermediate_size": c.ffn_size,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_size,
        "num_hidden_layers": 1,
        "hidden_act": "silu",
        "max_position_embeddings": c.context_length,
        "rms_norm_eps": c.rms_epsilon,
        "rope_theta": ROPE_BASE,
        "sliding_window": c.window,
        "draft_vocab_size": c.vocab_size,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
