"""A table of n-grams for a target, from text that it wrote itself and what it thought at each token.

An entry stands for a context of n tokens: the token that the target gave the most probability there, over all places
where the context stood, and how often that is right, judged on text that was held out. Contexts that say nothing but
what shorter ones say are left out, as in the pruning of back-off models (Stolcke 1998, arXiv:cs/0006025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from edgespec.decoding.drafters.ngram_table import CLASS_EDGES, ORDERS, Keys, Slots, context_keys, fill
from export.conversations import ANSWER

_LIKELY: Final = 4
"""Of the target's likeliest tokens at a place, those that are counted."""
_SHARE_EDGES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)
_MOST_SEEN: Final = 5
"""Contexts are judged together by the logarithm of how often they stood, up to this one, and by the share above."""
_PRIOR: Final = 20.0
"""Places that the mean over all counts is worth beside what was seen with one count."""
_LEAST_CHANCE, _LEAST_NEWS = 0.2, 0.2
"""An entry is right at least so often, unless a shorter context says more than it should; and differs by so much from
what that says, if they say the same token."""
_WORTH_OF_NEWS: Final = 0.3
"""What knowing a chance better counts beside knowing a better token."""

Shares = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Text:
    """A wave as arrays, B sequences of T tokens: `tokens` int64 [B, T], `answers` bool [B, T], whether the token behind
    a place is of an answer; `depth` int64 [B, T], how many tokens of its conversation stand before a place; `likely`
    int64 and `shares` float32 [B, T, K], the target's likeliest next tokens and their probabilities."""

    tokens: Ids
    answers: NDArray[np.bool_]
    depth: Ids
    likely: Ids
    shares: Shares


@dataclass(frozen=True, slots=True)
class Contexts:
    """All contexts of one length behind which an answer went on, by rising key: what the target would have said there.

    tokens: the likeliest one. shares: its mean probability. counts: at how many places. shorter: the index of the
    context without its first token, or of the next length there is, in the arrays of that length; None for the
    shortest.
    """

    keys: Keys
    tokens: Ids
    shares: Shares
    counts: Ids
    shorter: Ids | None

    def find(self, keys: Keys) -> tuple[Ids, NDArray[np.bool_]]:
        """For each key its index, and whether it is there at all."""
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return at, self.keys[at] == keys


def build_table(waves: Sequence[Path], bits: int) -> tuple[Slots, float]:
    """A table of 2 ** `bits` slots, three quarters of them full if there is enough to say. The last wave is held out.
    Returns how often its first proposal is right on the held-out answers, as a share of their tokens.
    """
    texts, held_out = [read_text(wave) for wave in waves[:-1]], read_text(waves[-1])
    found: dict[int, Contexts] = {}
    for n in ORDERS:
        found[n] = count(texts, n, found[max(found)] if found else None, max(found, default=0))
    chances = {n: judge(contexts, n, held_out) for n, contexts in found.items()}
    gains = weigh(found, chances)
    room = 3 << bits - 2
    least = np.sort(np.concatenate(list(gains.values())))[-room:][0]
    kept = {n: (gain > 0) & (gain >= least) for n, gain in gains.items()}
    keys = np.concatenate([found[n].keys[kept[n]] for n in ORDERS])[:room]
    tokens = np.concatenate([found[n].tokens[kept[n]] for n in ORDERS])[:room]
    classes = np.concatenate([np.searchsorted(CLASS_EDGES, chances[n][kept[n]]) for n in ORDERS])[:room]
    return fill(keys, tokens, classes, bits), _hit_rate(found, kept, held_out)


def read_text(wave: Path) -> Text:
    """What of a wave is counted."""
    with safe_open(wave, "np") as file:
        tokens, roles, starts = (file.get_tensor(name) for name in ("tokens", "roles", "starts"))
        likely = file.get_slice("top_ids")[:, :, :_LIKELY]
        logits = file.get_tensor("top_logits").astype(np.float32)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares = weights[:, :, :_LIKELY] / weights.sum(axis=-1, keepdims=True)
    answers = np.zeros(tokens.shape, np.bool_)
    answers[:, :-1] = (roles[:, 1:] == ANSWER) & (starts[:, 1:] == starts[:, :-1])
    depth = np.arange(tokens.shape[1]) - starts
    return Text(tokens.astype(np.int64), answers, depth, likely.astype(np.int64), shares)


def _places(text: Text, n: int) -> NDArray[np.bool_]:
    """Where contexts of `n` tokens end that answers go on from: bool [B, T]."""
    return text.answers & (text.depth >= n - 1)


def _keys(text: Text, n: int, places: NDArray[np.bool_]) -> Keys:
    return context_keys(text.tokens, n)[places[:, n - 1 :]]


def count(texts: Sequence[Text], n: int, shorter: Contexts | None, shorter_n: int) -> Contexts:
    """All contexts of `n` tokens; `shorter`: those of `shorter_n`, counted before."""
    places = [_places(text, n) for text in texts]
    keys, which, counts = np.unique(
        np.concatenate([_keys(text, n, here) for text, here in zip(texts, places, strict=True)]),
        return_inverse=True,
        return_counts=True,
    )
    likely = np.concatenate([text.likely[here] for text, here in zip(texts, places, strict=True)])
    shares = np.concatenate([text.shares[here] for text, here in zip(texts, places, strict=True)])
    # Sorted as one number, the same token behind the same context stands together.
    pairs = (which[:, None] << 24 | likely).ravel()
    order = np.argsort(pairs)
    pairs, shares = pairs[order], shares.ravel()[order]
    first = np.flatnonzero(np.append(True, pairs[1:] != pairs[:-1]))
    sums, pairs = np.add.reduceat(shares, first), pairs[first]
    owners = pairs >> 24
    best = np.lexsort((-sums, owners))[np.flatnonzero(np.append(True, owners[1:] != owners[:-1]))]
    link = None
    if shorter is not None:
        link = np.zeros(len(keys), np.int64)
        link[which] = shorter.find(
            np.concatenate([_keys(text, shorter_n, here) for text, here in zip(texts, places, strict=True)])
        )[0]
    return Contexts(keys, pairs[best] & (1 << 24) - 1, (sums[best] / counts).astype(np.float32), counts, link)


def judge(contexts: Contexts, n: int, held_out: Text) -> Shares:
    """For each context, how often its token is the target's own choice: float32 [contexts]. Judged on text that was
    not counted, for all contexts together that stood about as often and gave their token about as much."""
    places = _places(held_out, n)
    at, there = contexts.find(_keys(held_out, n, places))
    right = (contexts.tokens[at] == held_out.likely[places][:, 0])[there]
    seen = np.minimum(np.log2(contexts.counts).astype(np.int64), _MOST_SEEN)
    share = np.searchsorted(_SHARE_EDGES, contexts.shares)
    hits, tries = (np.zeros((_MOST_SEEN + 1, len(_SHARE_EDGES) + 1)) for _ in range(2))
    np.add.at(hits, (seen[at[there]], share[at[there]]), right)
    np.add.at(tries, (seen[at[there]], share[at[there]]), 1.0)
    usual = (hits.sum(axis=0) + 1.0) / (tries.sum(axis=0) + 4.0)
    return ((hits + _PRIOR * usual) / (tries + _PRIOR))[seen, share].astype(np.float32)


def weigh(found: dict[int, Contexts], chances: dict[int, Shares]) -> dict[int, Shares]:
    """What an entry would bring, for each context: 0 if it says no more than the longest shorter context that does."""
    gains: dict[int, Shares] = {}
    token, chance = np.empty(0, np.int64), np.empty(0, np.float32)
    for n, contexts in found.items():
        own, own_chance, shorter = contexts.tokens, chances[n], contexts.shorter
        if shorter is None:
            before, before_chance = np.full_like(own, -1), np.zeros_like(own_chance)
        else:
            before, before_chance = token[shorter], chance[shorter]
        same, difference = own == before, own_chance - before_chance
        news = np.where(same, np.abs(difference) > _LEAST_NEWS, difference > 0) & (
            (own_chance >= _LEAST_CHANCE) | (before >= 0)
        )
        worth = np.where(same, _WORTH_OF_NEWS * np.abs(difference), own_chance - before_chance / 2)
        gains[n] = np.where(news, worth * contexts.counts, 0.0).astype(np.float32)
        token, chance = np.where(news, own, before), np.where(news, own_chance, before_chance)
    return gains


def _hit_rate(found: dict[int, Contexts], kept: dict[int, NDArray[np.bool_]], text: Text) -> float:
    proposed = np.full(text.tokens.shape, -1)
    for n in ORDERS:
        places = _places(text, n)
        at, there = found[n].find(_keys(text, n, places))
        there &= kept[n][at]
        proposed[tuple(index[there] for index in np.nonzero(places))] = found[n].tokens[at[there]]
    return float((proposed == text.likely[:, :, 0])[text.answers].mean())
