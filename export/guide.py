"""A recurrent head that guides lookup, trained on what its target wrote (edgespec.graph.recurrent, decision 0024).

At each place it reads what the target made of the position before and the token there, and learns what the target would
have said next; then the following tokens one by one, on its own states. How far lookup and a table are to be believed
beside it is fitted last, on text that was held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from edgespec.decoding.drafters.guided import Belief
from edgespec.decoding.drafters.ngram import NgramDrafter
from edgespec.decoding.drafters.ngram_table import NgramTableDrafter, Slots
from edgespec.decoding.protocols import Drafter
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.graph.recurrent import EPSILON, RecurrentConfig, RecurrentWeights
from export.conversations import ANSWER
from export.draft_data import token_counts
from export.eagle_head import frequent_words
from export.ngram_table import read_text
from export.soft_loss import soft_loss
from export.torch_llama import TorchLlama

LEAST_WAVES: Final = 2
"""One to train on, and one that is held out."""
_STEPS: Final = 3
"""Tokens that are foretold from each place, each on the state of the one before."""
_LATER_STEP: Final = 0.8
"""What a step counts beside the one before it."""
_WARM_UP: Final = 50
_LEAST_RATE: Final = 0.02
_PER_TOKEN: Final = {"embedding", "output"}
"""Matrices with a row for each token: most of their rows have nothing to learn from a batch."""
_TESTED: Final = 40_000
_NEWTON: Final = 20

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Sizes as in RecurrentConfig. batch: places of a step of the training. rate, token_rate: the highest learning
    rates, of matrices and of all else: norms, and what has a row for each token."""

    embedding_size: int = 96
    state_size: int = 512
    ffn_size: int = 1536
    rank: int = 128
    words: int = 8192
    epochs: int = 3
    batch: int = 1024
    rate: float = 1e-2
    token_rate: float = 5e-3


@dataclass(frozen=True, slots=True)
class TrainedGuide:
    """A head. acceptance: on the held-out wave, how often what it finds likeliest is the target's own choice, for the
    first, second and third token, where those before it are. before, after: what proposals that were looked up cost
    there in nats each, by their evidence alone and as it believes them."""

    weights: RecurrentWeights
    acceptance: tuple[float, ...]
    before: float
    after: float

    @property
    def parameters(self) -> int:
        return sum(tensor.size for tensor in self.weights.tensors.values())


class RecurrentHead(nn.Module):
    """As edgespec.graph.recurrent has it. Weights are float32; products are computed in the type of what is read."""

    def __init__(self, target: TorchLlama, words: Tensor, recipe: Recipe) -> None:
        super().__init__()
        target_size, tokens = target.config.hidden_size, len(target.embedding)
        self.config = RecurrentConfig(
            tapped_size=len(target.config.taps) * target_size,
            token_count=tokens,
            embedding_size=recipe.embedding_size,
            state_size=recipe.state_size,
            ffn_size=recipe.ffn_size,
            rank=recipe.rank,
            vocab_size=len(words),
        )
        self.weights = nn.ParameterDict()
        for name, shape in self.config.tensors().items():
            values = torch.ones(shape) if len(shape) == 1 else torch.empty(shape)
            if len(shape) == 2:
                nn.init.uniform_(values, -(shape[1] ** -0.5), shape[1] ** -0.5)
            self.weights[name] = nn.Parameter(values)
        with torch.no_grad():
            self.weights["down"].mul_(0.1)
            # Tokens that the target takes for alike begin alike.
            self._begin_as("embedding", target.embedding, 1.0)
            self._begin_as("output", target.head[words.to(target.device)], 0.02)

    def _begin_as(self, name: str, matrix: Tensor, loudness: float) -> None:
        """Set the weights `name` to the principal components of what the target's `matrix` holds for the same tokens,
        all as loud as each other."""
        u, _, _ = torch.linalg.svd(matrix.float().cpu(), full_matrices=False)
        rank = min(self.weights[name].shape[1], u.shape[1])
        self.weights[name][:, :rank] = u[:, :rank] * (loudness * len(u) ** 0.5)

    def begin(self, taps: Tensor) -> Tensor:
        """What the target made of the positions before, [N, T], to what is carried: [N, D]."""
        return self._linear("taps", self._norm("taps_norm", taps))

    def go_on(self, state: Tensor) -> Tensor:
        """The own state [N, D] of a step to what is carried to the next one: [N, D]."""
        return self._linear("own", self._norm("own_norm", state))

    def step(self, carried: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[N, D] and the tokens there, int64 [N], to the own state [N, D], and what `output` is to multiply [N, R]."""
        state = carried + self._linear("token", F.embedding(tokens, self.weights["embedding"]).to(carried.dtype))
        x = self._norm("ffn_norm", state)
        state = state + self._linear("down", F.silu(self._linear("up", x)))
        return state, self._linear("projection", self._norm("output_norm", state))

    def logits(self, x: Tensor) -> Tensor:
        return self._linear("output", x)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[name].to(x.dtype))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weights[name].to(x.dtype), EPSILON)


class _Wave:
    """A wave, its tensors flattened to places. places: those whose next token is an answer's, and whose own and last
    token are of the same conversation, int64."""

    def __init__(self, path: Path) -> None:
        wave = load_file(path)
        self.length = wave["tokens"].shape[1]
        at = torch.arange(1, self.length - _STEPS)
        inside = wave["starts"][:, at - 1] == wave["starts"][:, at + 1]
        rows, columns = (inside & (wave["roles"][:, at + 1] == ANSWER)).nonzero(as_tuple=True)
        self.places = rows * self.length + at[columns]
        self._flat = {name: tensor.flatten(0, 1) for name, tensor in wave.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._flat[name]

    def same(self, places: Tensor, later: int) -> Tensor:
        """Where the token `later` places behind is of the same conversation, and an answer's: bool [N]."""
        starts, behind = self["starts"], places + later
        return (starts[behind] == starts[places - 1]) & (self["roles"][behind] == ANSWER)


class _Training:
    """Goes on behind the last wave that an earlier call has finished, if `kept` has that."""

    def __init__(self, target: TorchLlama, waves: Sequence[Path], words: Tensor, recipe: Recipe, kept: Path) -> None:
        self._target, self._waves, self._words, self._recipe, self._kept = target, waves, words, recipe, kept
        torch.manual_seed(0)
        self.head = RecurrentHead(target, words, recipe).to(target.device)
        # Muon (Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982): of little text it makes more than AdamW.
        hidden = {name for name, w in self.head.weights.items() if w.ndim == 2} - _PER_TOKEN
        by_muon = [w for name, w in self.head.weights.items() if name in hidden]
        by_adamw = [w for name, w in self.head.weights.items() if name not in hidden]
        self._optimizers: dict[torch.optim.Optimizer, float] = {
            torch.optim.Muon(by_muon, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"): recipe.rate,
            torch.optim.AdamW(by_adamw, betas=(0.9, 0.98), weight_decay=0.0, fused=True): recipe.token_rate,
        }
        self._word = torch.full((target.config.vocab_size,), -1)
        self._word[words] = torch.arange(len(words))

    def run(self, progress: Progress) -> None:
        order = np.random.default_rng(0)
        shuffled = np.concatenate([order.permutation(len(self._waves)) for _ in range(self._recipe.epochs)]).tolist()
        for done in range(self._resume(), len(shuffled)):
            wave = _Wave(self._waves[shuffled[done]])
            generator = torch.Generator().manual_seed(done)
            parts = wave.places[torch.randperm(len(wave.places), generator=generator)].split(self._recipe.batch)
            for i, places in enumerate(parts):
                left = 1.0 - (done + i / len(parts)) / len(shuffled)
                pace = _LEAST_RATE + (1.0 - _LEAST_RATE) * left
                self._learn(wave, places, pace * min((done * len(parts) + i + 1) / _WARM_UP, 1.0))
                progress((done + (i + 1) / len(parts)) / len(shuffled))
            self._save(done + 1)

    def _learn(self, wave: _Wave, places: Tensor, pace: float) -> None:
        """pace: a part of the highest learning rates."""
        device, head = self._target.device, self.head
        total = torch.zeros((), device=device)
        for step, (_, x) in enumerate(steps(head, wave, places, self._target)):
            counted = wave.same(places, step + 1)
            at = places[counted] + step
            ids = self._word[wave["top_ids"][at].long()]
            p = wave["top_logits"][at].float().softmax(dim=-1) * (ids >= 0)
            matrix = head.weights["output"].to(x.dtype)
            loss = soft_loss(x[counted.to(device)], matrix, ids.clamp(min=0).to(device), p.to(device))
            total = total + _LATER_STEP**step * loss / max(len(at), 1)
        head.zero_grad()
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        for optimizer, rate in self._optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rate * pace
            optimizer.step()

    @property
    def _what(self) -> dict[str, Any]:
        """What a checkpoint must agree on to be gone on from."""
        names = [path.name for path in self._waves]
        return {"recipe": asdict(self._recipe), "words": self._words.tolist(), "waves": names}

    def _save(self, done: int) -> None:
        optimizers = [optimizer.state_dict() for optimizer in self._optimizers]
        state = {"head": self.head.state_dict(), "optimizers": optimizers}
        partial = self._kept.with_suffix(".partial")
        torch.save({**state, "what": self._what, "done": done}, partial)
        partial.replace(self._kept)

    def _resume(self) -> int:
        if not self._kept.exists():
            return 0
        saved = torch.load(self._kept, weights_only=True, map_location=self._target.device)
        if saved["what"] != self._what:
            return 0
        self.head.load_state_dict(saved["head"])
        for optimizer, state in zip(self._optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        return int(saved["done"])


def train_guide(
    target: TorchLlama,
    waves: Sequence[Path],
    slots: Slots,
    always: set[int],
    recipe: Recipe,
    kept: Path,
    progress: Progress,
) -> TrainedGuide:
    """Train on all `waves`, at least LEAST_WAVES, but the last one. slots: the table that was counted from these.
    always: tokens that the head knows however rare they are. kept: the file of what an interrupted call leaves."""
    *seen, held_out = waves
    words = frequent_words(token_counts(seen, target.config.vocab_size), recipe.words, always)
    training = _Training(target, seen, words, recipe, kept)
    training.run(lambda done: progress(0.9 * done))
    head = training.head
    acceptance = measure_acceptance(head, _Wave(held_out), words, target)
    found = propose(held_out, slots, target.config.vocab_size)
    progress(0.95)
    belief, before, after = _fit_belief(head, _Wave(held_out), words, target, found)
    tensors = {name: weight.detach().float().cpu().numpy() for name, weight in head.weights.items()}
    weights = RecurrentWeights(head.config, tensors, words.numpy(), np.array(belief, np.float32))
    return TrainedGuide(weights, acceptance, before, after)


def steps(head: RecurrentHead, wave: _Wave, places: Tensor, target: TorchLlama) -> Iterator[tuple[Tensor, Tensor]]:
    """The head's steps from `places` on, over what was said: (own state, what `output` is to multiply) of each."""
    carried = head.begin(wave["taps"][places - 1].to(target.device, target.dtype))
    for step in range(_STEPS):
        state, x = head.step(carried, wave["tokens"][places + step].long().to(target.device))
        yield state, x
        carried = head.go_on(state)


@torch.no_grad()
def measure_acceptance(head: RecurrentHead, wave: _Wave, words: Tensor, target: TorchLlama) -> tuple[float, ...]:
    """See TrainedGuide, on some of the answers of `wave`."""
    generator = torch.Generator().manual_seed(0)
    places = wave.places[torch.randperm(len(wave.places), generator=generator)[:_TESTED]]
    hits, tested = np.zeros(_STEPS), np.zeros(_STEPS)
    for part in places.split(4096):
        alive = torch.ones(len(part), dtype=torch.bool)
        for step, (_, x) in enumerate(steps(head, wave, part, target)):
            alive &= wave.same(part, step + 1)
            right = words[head.logits(x).argmax(dim=-1).cpu()] == wave["top_ids"][part + step, 0]
            hits[step] += int((alive & right).sum())
            tested[step] += int(alive.sum())
            alive &= right & (wave["tokens"][part + step + 1] == wave["top_ids"][part + step, 0])
    return tuple((hits / np.maximum(tested, 1)).tolist())


@dataclass(frozen=True, slots=True)
class Proposals:
    """What was looked up on a wave, N proposals: `rows` and `places` int64 [N], where the last token of the history
    stands; `tokens` int64 [N]; `odds` float32 [N], the log odds of their evidence; `right` bool [N], whether they are
    the target's own choice."""

    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    tokens: NDArray[np.int64]
    odds: NDArray[np.float32]
    right: NDArray[np.bool_]


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


def _fit_belief(
    head: RecurrentHead, wave: _Wave, words: Tensor, target: TorchLlama, found: Proposals
) -> tuple[Belief, float, float]:
    """Logistic regression on every other proposal; what the others cost in nats, before and with it."""
    known, share, likeliest = _opinions(head, wave, words, target, found)
    odds = np.log(share / (1.0 - share))
    features = np.stack([found.odds, odds, np.ones_like(odds), likeliest], axis=1) * known[:, None]
    features = np.hstack([features, np.stack([found.odds, np.ones_like(odds)], axis=1) * ~known[:, None]])
    fitted = np.arange(len(odds)) % 2 == 0
    x, y = features[fitted], found.right[fitted]
    belief = np.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])  # as without a head
    for _ in range(_NEWTON):
        p = 1.0 / (1.0 + np.exp(-x @ belief))
        curvature = (x * (p * (1.0 - p))[:, None]).T @ x + np.eye(x.shape[1])
        belief -= np.linalg.solve(curvature, x.T @ (p - y))
    signs = np.where(found.right, -1.0, 1.0)[~fitted]
    before, after = (
        float(np.logaddexp(0.0, signs * log_odds[~fitted]).mean()) for log_odds in (found.odds, features @ belief)
    )
    return Belief(*belief.tolist()), before, after


@torch.no_grad()
def _opinions(
    head: RecurrentHead, wave: _Wave, words: Tensor, target: TorchLlama, found: Proposals
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.bool_]]:
    """Of each proposal: whether the head knows the token, how likely it finds it, whether it finds none likelier."""
    word = np.full(target.config.vocab_size, -1)
    word[words.numpy()] = np.arange(len(words))
    proposed = torch.from_numpy(word[found.tokens])
    places = torch.from_numpy(found.rows * wave.length + found.places)
    shares: list[Tensor] = []
    firsts: list[Tensor] = []
    for part, asked in zip(places.split(4096), proposed.split(4096), strict=True):
        _, x = next(steps(head, wave, part, target))
        probabilities = head.logits(x).float().softmax(dim=-1).cpu()
        shares.append(probabilities.gather(1, asked.clamp(min=0)[:, None])[:, 0])
        firsts.append(probabilities.argmax(dim=-1) == asked)
    share = torch.cat(shares).double().clamp(1e-6, 1.0 - 1e-6).numpy()
    return proposed.numpy() >= 0, share, torch.cat(firsts).numpy()
