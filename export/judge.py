"""A judge of proposals for a target, trained on what the target wrote: how likely its hidden state makes each of them.

At every place of an answer lookup and a table propose, exactly as they will; whether that is the target's own choice
is known. The judge learns what to add to the log odds that their evidence gives. A table knows the text that it was
counted from too well, so that each half of the text is proposed for by a table of the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from edgespec.decoding.drafters.judged import JudgeWeights
from edgespec.decoding.drafters.ngram import NgramDrafter
from edgespec.decoding.drafters.ngram_table import NgramTableDrafter, Slots
from edgespec.decoding.protocols import Drafter
from edgespec.decoding.sampling import Sampler, Sampling
from export.ngram_table import build_table, read_text

LEAST_WAVES: Final = 4
"""Two tables of halves, each with a wave that it was not counted from."""
_SIZE: Final = 32
"""Of the vectors. With 16 a quarter of the gain is lost, with 64 next to nothing is won."""
_EPOCHS: Final = 2
_BATCH: Final = 4096
_RATE, _STATES_RATE = 4e-3, 1e-3
"""Of the tokens' vectors, which are seldom seen, and of the projection."""
_LOUD: Final = 127

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Proposals:
    """What was proposed on a wave, N proposals: `rows` and `places` int64 [N], where the last token of the history
    stands; `tokens` int64 [N]; `odds` float32 [N], the log odds of their evidence; `right` bool [N]."""

    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    tokens: NDArray[np.int64]
    odds: NDArray[np.float32]
    right: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TrainedJudge:
    """A judge, and what proposals on the held-out wave cost in nats: by their evidence alone, and as it judges them."""

    weights: JudgeWeights
    before: float
    after: float

    @property
    def parameters(self) -> int:
        return sum(getattr(self.weights, name).size for name in JudgeWeights.__slots__)


def train_judge(waves: Sequence[Path], bits: int, vocab_size: int, progress: Progress) -> TrainedJudge:
    """Train on all `waves`, at least LEAST_WAVES, but the last one. bits: as in `build_table`."""
    half = len(waves) // 2
    halves = [build_table(part, bits)[0] for part in (waves[:half], waves[half:])]
    found: list[Proposals] = []
    for i, wave in enumerate(waves):
        found.append(propose(wave, halves[0] if i >= half else halves[1], vocab_size))
        progress(0.5 * (i + 1) / len(waves))
    judge = _train(waves[:-1], found[:-1], vocab_size, lambda done: progress(0.5 + 0.5 * done))
    weights = judge.weights()
    before, after = _cost(weights, waves[-1], found[-1])
    return TrainedJudge(weights, before, after)


def propose(wave: Path, slots: Slots, vocab_size: int) -> Proposals:
    """What lookup and the table `slots` propose first, wherever an answer goes on and a state is known."""
    text = read_text(wave)
    table, sampler = NgramTableDrafter(slots, vocab_size), Sampler(Sampling())
    found: list[tuple[int, int, int, float, bool]] = []
    for row, (tokens, depths) in enumerate(zip(text.tokens.tolist(), text.depth.tolist(), strict=True)):
        lookup = NgramDrafter()
        history: list[int] = []
        for place, (token, depth) in enumerate(zip(tokens, depths, strict=True)):
            if not depth:
                lookup = NgramDrafter()
                history.clear()
            history.append(token)
            if not (depth and text.answers[row, place]):
                continue
            drafters: tuple[Drafter, ...] = (lookup, table)
            for drafter in drafters:
                draft = drafter.propose(history, 1, sampler)
                if draft.tokens:
                    usual = drafter.usual[draft.evidence[0]]
                    right = draft.tokens[0] == text.likely[row, place, 0]
                    found.append((row, place, draft.tokens[0], np.log(usual / (1.0 - usual)), right))
    columns = [np.array(column) for column in zip(*found, strict=True)] if found else [np.empty(0)] * 5
    rows, places, proposed = (column.astype(np.int64) for column in columns[:3])
    return Proposals(rows, places, proposed, columns[3].astype(np.float32), columns[4].astype(np.bool_))


class _Judge(nn.Module):
    """In float32, on states as loud as each other."""

    def __init__(self, states: Tensor, vocab_size: int) -> None:
        """states: some of them, [N, S], for how loud they are."""
        super().__init__()
        self.mean, self.spread = states.mean(dim=0), states.std(dim=0) + 1e-3
        self.project = nn.Linear(states.shape[1], _SIZE)
        self.last, self.proposals = nn.Embedding(vocab_size, _SIZE), nn.Embedding(vocab_size, _SIZE)
        with torch.no_grad():
            self.project.weight.mul_(0.3)
            for vectors in (self.last.weight, self.proposals.weight):
                vectors.normal_(std=0.1)

    def forward(self, states: Tensor, last: Tensor, tokens: Tensor) -> Tensor:
        """What to add to the log odds of N proposals: [N], for states [N, S]."""
        query = self.project((states - self.mean) / self.spread) + self.last(last)
        return (query * self.proposals(tokens)).sum(dim=-1)

    @torch.no_grad()
    def weights(self) -> JudgeWeights:
        """The tokens' vectors rounded, and their scales where they cost nothing."""
        proposals, loudest = self.proposals.weight, self.proposals.weight.abs().amax(dim=0)
        louder = loudest / _LOUD
        last = self.last.weight * louder
        scale = last.abs().amax(dim=0) / _LOUD
        states = self.project.weight / self.spread * louder[:, None]
        bias = self.project.bias * louder - states @ self.mean
        return JudgeWeights(
            states.numpy(),
            bias.numpy(),
            (last / scale).round().to(torch.int8).numpy(),
            scale.numpy(),
            (proposals / louder).round().to(torch.int8).numpy(),
        )


def _train(waves: Sequence[Path], found: Sequence[Proposals], vocab_size: int, progress: Progress) -> _Judge:
    torch.manual_seed(0)
    order = np.random.default_rng(0)
    judge = _Judge(_read(waves[0])[0].flatten(0, 1).float(), vocab_size)
    optimizer = torch.optim.Adam(
        [
            {"params": [judge.last.weight, judge.proposals.weight], "lr": _RATE},
            {"params": judge.project.parameters(), "lr": _STATES_RATE},
        ],
        betas=(0.9, 0.99),
    )
    steps = _EPOCHS * len(waves)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / (steps + 1))
    shuffled = np.concatenate([order.permutation(len(waves)) for _ in range(_EPOCHS)])
    for step, wave in enumerate(shuffled.tolist(), 1):
        states, said = _read(waves[wave])
        for part in np.array_split(order.permutation(len(found[wave].rows)), len(found[wave].rows) // _BATCH + 1):
            proposals = _part(found[wave], part)
            odds = judge(*_inputs(states, said, proposals)) + torch.from_numpy(proposals.odds)
            loss = F.binary_cross_entropy_with_logits(odds, torch.from_numpy(proposals.right).float())
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        falling.step()
        progress(step / steps)
    return judge


def _cost(weights: JudgeWeights, wave: Path, found: Proposals) -> tuple[float, float]:
    """Nats a proposal, without and with the judge as it will be."""
    states, last, tokens = (tensor.numpy() for tensor in _inputs(*_read(wave), found))
    query = states @ weights.states.T + weights.bias + weights.last[last] * weights.scale
    judged = found.odds + (query * weights.proposals[tokens]).sum(axis=1)
    signs = np.where(found.right, -1.0, 1.0)
    before, after = (float(np.logaddexp(0.0, signs * odds).mean()) for odds in (found.odds, judged))
    return before, after


def _read(wave: Path) -> tuple[Tensor, Tensor]:
    """The highest of the three hidden states of each place, bfloat16 [B, T, D], and the tokens, int64 [B, T]."""
    with safe_open(wave, "pt") as file:
        size = file.get_slice("taps").get_shape()[2] // 3
        return file.get_slice("taps")[:, :, -size:], file.get_tensor("tokens").long()


def _part(found: Proposals, part: NDArray[np.int64]) -> Proposals:
    return Proposals(found.rows[part], found.places[part], found.tokens[part], found.odds[part], found.right[part])


def _inputs(states: Tensor, said: Tensor, found: Proposals) -> tuple[Tensor, Tensor, Tensor]:
    rows, places, tokens = (torch.from_numpy(a) for a in (found.rows, found.places, found.tokens))
    return states[rows, places - 1].float(), said[rows, places], tokens
