"""Stand-ins that need no weights: a language model read from a table, and drafters of every temper."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespec.decoding.controller import Controller
from edgespec.decoding.costs import Costs, DraftCost
from edgespec.decoding.drafters.guided import Belief
from edgespec.decoding.protocols import Draft, Drafter, Fixed, Logits, Policy, Readable, Worth, always
from edgespec.decoding.sampling import Sampler
from edgespec.errors import ContextFullError, GenerationError

Table = NDArray[np.float32]
"""Logits behind two tokens: float32 [vocab, vocab, vocab], by the last but one, the last, the next. Token 0 stands
before the first."""


def random_table(vocab: int, seed: int, scale: float = 1.5) -> Table:
    return np.random.default_rng(seed).normal(0.0, scale, (vocab, vocab, vocab)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Pass:
    """One call of forward: `ids` behind `past` cached positions, of which `rows` rows of logits were wanted."""

    past: int
    ids: tuple[int, ...]
    rows: int


class States(np.ndarray[Any, np.dtype[np.float32]]):
    """Hidden states that are where they can be read."""

    def read(self) -> NDArray[np.float32]:
        return np.asarray(self)


class TableModel:
    """A CausalLM whose next-token logits are those of `table`, and which is as unforgiving as a real one: logits turn
    to NaN with the next call, positions that are not rewound stay, a failing pass leaves garbage behind the length.

    fails_at: the calls, counted from 0, that raise GenerationError.
    lone_row_noise: added to every other token's logit when a pass has a single row, as another kernel would.
    """

    def __init__(
        self,
        table: Table,
        *,
        context_length: int = 64,
        fails_at: Collection[int] = (),
        lone_row_noise: float = 0.0,
    ) -> None:
        self.table = table
        self.vocab_size = len(table)
        self.context_length = context_length
        self.length = 0
        self.passes: list[Pass] = []
        self._positions = np.zeros(context_length, np.int64)
        self._fails_at = fails_at
        self._noise = lone_row_noise * (np.arange(self.vocab_size) % 2).astype(np.float32)
        self._given: Logits | None = None

    @property
    def cached(self) -> list[int]:
        """The tokens whose positions the cache holds."""
        return self._positions[: self.length].tolist()

    def forward(self, ids: Sequence[int], rows: int | None = None) -> Logits:
        n, past = len(ids), self.length
        kept = n if rows is None else rows
        if not 1 <= kept <= n:
            raise ValueError(f"{kept} rows of a pass over {n} tokens")
        if past + n > self.context_length:
            raise ContextFullError(f"{past + n} tokens do not fit {self.context_length}")
        if self._given is not None:
            self._given[:] = np.nan
        self.passes.append(Pass(past, tuple(ids), kept))
        if len(self.passes) - 1 in self._fails_at or not all(0 <= t < self.vocab_size for t in ids):
            self._positions[past : past + n] = 0
            raise GenerationError("the pass failed")
        self._positions[past : past + n] = ids
        self.length = past + n
        given = self._logits(past + n - kept, past + n)
        if n == 1:
            given += self._noise
        self._given = given
        return given

    def forward_exact(self, token: int) -> Logits:
        logits = self.forward([token, token])
        self.rewind(self.length - 1)
        return logits[:1]

    def forward_tree(self, ids: Sequence[int], parents: Sequence[int]) -> Logits:
        past = self.length
        given = self.forward(ids)
        for row, parent in enumerate(parents):
            before = ids[parent] if parent >= 0 else int(self._positions[past - 1]) if past else 0
            given[row] = self.table[before, ids[row]]
        return given

    def gather(self, start: int, positions: Sequence[int]) -> None:
        moved = self._positions[list(positions)]
        self._positions[start : start + len(moved)] = moved
        self.rewind(start + len(moved))

    hidden_size = 2

    def hidden_states(self, start: int, end: int) -> States:
        """Of each position, its number and its token."""
        if end > self.length:
            raise ValueError(f"only {self.length} positions are cached")
        return np.stack([np.arange(start, end), self._positions[start:end]], axis=1).astype(np.float32).view(States)

    def rewind(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind {self.length} to {length}")
        self.length = length

    def _logits(self, start: int, stop: int) -> Logits:
        before = [int(self._positions[i - 1]) if i else 0 for i in range(start, stop)]
        return self.table[before, self._positions[start:stop]]


class TableHead:
    """A head on a TableModel that knows the tokens `token_ids`: what follows two tokens is in `table`. It insists on
    rows in their order, each on the state of its own position or of the row before, and remembers them.

    fails_at: the calls, counted from 0, that raise GenerationError.
    """

    def __init__(
        self,
        table: Table,
        token_ids: Sequence[int],
        *,
        context_length: int = 64,
        window: int | None = None,
        fails_at: Collection[int] = (),
    ) -> None:
        self.table, self.token_ids = table, np.array(token_ids, np.int64)
        self.context_length, self.window, self.length = context_length, window, 0
        self.rows: list[tuple[int, int, bool]] = []  # the tokens at and behind the position, and whether both are real
        self.skipped: list[tuple[int, int]] = []
        self._fails_at, self._calls = fails_at, 0

    def forward(self, ids: Sequence[int], states: NDArray[np.float32] | None) -> NDArray[np.float32]:
        self._calls += 1
        if self._calls - 1 in self._fails_at:
            raise GenerationError("the head failed")
        if self.length + len(ids) > self.context_length:
            raise ValueError("the head's cache is full")
        del self.rows[self.length :]
        if states is None:
            (token,) = ids
            self.rows.append((self.rows[-1][1], token, False))
        else:
            assert states[:, 0].tolist() == [*range(self.length, self.length + len(ids))]
            self.rows += [(int(at), token, True) for at, token in zip(states[:, 1], ids, strict=True)]
        self.length = len(self.rows)
        before, last, _ = self.rows[-1]
        return self.table[before, last][self.token_ids].astype(np.float32)

    def rewind(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind {self.length} to {length}")
        self.length = length

    def skip(self, length: int) -> None:
        self.skipped.append((self.length, length))
        del self.rows[self.length :]
        self.rows += [(-1, -1, False)] * (length - self.length)
        self.length = length


class TableGuide:
    """A recurrent head on a TableModel that knows the tokens `token_ids`: the probabilities of what follows two tokens
    are those of `table`. It remembers the two tokens of each call, and whether the first was of a state of the target.

    fails_at: the calls, counted from 0, that raise GenerationError.
    """

    def __init__(
        self, table: Table, token_ids: Sequence[int], belief: Belief, *, fails_at: Collection[int] = ()
    ) -> None:
        self.table, self.token_ids, self.belief = table, np.array(token_ids, np.int64), belief
        self.calls: list[tuple[int, int, bool]] = []
        self._fails_at = fails_at

    def forward(self, token: int, states: Readable | None) -> NDArray[np.float32]:
        before = self.calls[-1][1] if states is None else int(states.read()[-1, 1])
        self.calls.append((before, token, states is not None))
        if len(self.calls) - 1 in self._fails_at:
            raise GenerationError("the head failed")
        exponents = np.exp(self.table[before, token][self.token_ids])
        return (exponents / exponents.sum()).astype(np.float32)


def likeliest(table: Table, text: Sequence[int]) -> int:
    """What a greedy TableModel says behind `text`."""
    return int(table[text[-2] if len(text) > 1 else 0, text[-1]].argmax())


class ChosenDrafter:
    """Proposes `say(text)` token by token, of any quality, as chosen ones (q is one-hot); `count(history, k)` of
    them, all k by default. Keeps what it was told."""

    def __init__(
        self,
        say: Callable[[Sequence[int]], int],
        count: Callable[[Sequence[int], int], int] = lambda history, k: k,
        name: str = "chosen",
    ) -> None:
        self.name = name
        self.usual = (0.5,)
        self.upfront = True
        self.proposals: list[tuple[tuple[int, ...], int]] = []
        self._say = say
        self._count = count

    def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        text = list(history)
        for _ in range(self._count(history, k)):
            text.append(self._say(text))
        tokens = tuple(text[len(history) :])
        self.proposals.append((tokens, k))
        return Draft(tokens, evidence=(0,) * len(tokens))

    def lag(self, length: int) -> int:
        return 0

    def rewind(self, length: int) -> None:
        """Keeps nothing of the history."""


def policy(drafter: Drafter | Controller | None) -> Policy | None:
    """A drafter alone is always asked; a controller decides for itself; None is plain decoding."""
    return drafter if drafter is None or isinstance(drafter, Controller) else Fixed(drafter)


COSTS = Costs(
    contexts=(16, 64),
    passes=((1.0, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9), (1.2, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.1)),
    lone=(1.05, 1.25),
    drafts={name: DraftCost(0.01) for name in ("ngram", "chosen", "oracle", "contrarian", "silent", "erratic")}
    | {name: DraftCost(0.02, 0.05, 0.01) for name in ("draft", "eagle")},
)
"""Milliseconds of a machine on which speculation pays if one proposal in four is right."""


def oracle(table: Table) -> ChosenDrafter:
    """Always right about a greedy target."""
    return ChosenDrafter(lambda text: likeliest(table, text), name="oracle")


def contrarian(table: Table) -> ChosenDrafter:
    """Always wrong about a greedy target."""
    return ChosenDrafter(lambda text: (likeliest(table, text) + 1) % len(table), name="contrarian")


def silent() -> ChosenDrafter:
    """Never proposes."""
    return ChosenDrafter(lambda text: 0, lambda history, k: 0, name="silent")


def erratic(table: Table, seed: int) -> ChosenDrafter:
    """Right and wrong by turns, with drafts of every length from 0 to k."""
    rng = np.random.default_rng(seed)

    def say(text: Sequence[int]) -> int:
        return (likeliest(table, text) + int(rng.random() < 0.3)) % len(table)

    return ChosenDrafter(say, lambda history, k: int(rng.integers(0, k + 1)), name="erratic")
