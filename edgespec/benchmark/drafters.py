"""Drafters that the self-test and the measurements need: they know what the target says, and may say otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgespec.benchmark.two_sample import Answers
from edgespec.decoding.protocols import Draft, Worth, always
from edgespec.decoding.sampling import Probabilities, Sampler, draw


class _AlwaysReady:
    """Keeps nothing between two proposals."""

    usual = (0.5,)
    upfront = True

    def lag(self, length: int) -> int:
        return 0

    def rewind(self, length: int) -> None:
        """Nothing is kept."""


class Prompter(_AlwaysReady):
    """Whispers an answer that is known, two of every seven tokens wrong. prompt_tokens: where the answer begins."""

    name = "two of seven wrong"

    def __init__(self, answer: Sequence[int], prompt_tokens: int) -> None:
        self._answer, self._start = tuple(answer), prompt_tokens

    def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        said = len(history) - self._start
        tokens = tuple(self._say(i) for i in range(said, min(said + k, len(self._answer))))
        return Draft(tokens, evidence=(0,) * len(tokens))

    def _say(self, i: int) -> int:
        right = self._answer[i]
        return right if i % 7 not in (0, 3) else next((t for t in self._answer if t != right), right)


class LikeliestDrafter(_AlwaysReady):
    """Chooses, at each position of an answer, the token that most of the `answers` have there."""

    name = "chosen, likeliest"

    def __init__(self, answers: Answers, prompt_tokens: int) -> None:
        self._tokens = [_commonest(column) for column in answers.T]
        self._start = prompt_tokens

    def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        said = len(history) - self._start
        tokens = tuple(self._tokens[said : said + k])
        return Draft(tokens, evidence=(0,) * len(tokens))


class HalfDrafter(_AlwaysReady):
    """Draws, at each position of an answer, from the distribution that the `answers` have there, less every other token
    of it: nothing shows a wrong correction as clearly, because what q left out then comes too seldom."""

    name = "drawn, half of p"

    def __init__(self, answers: Answers, prompt_tokens: int, vocab_size: int) -> None:
        self._q = [_half(column, vocab_size) for column in answers.T]
        self._start = prompt_tokens

    def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        said = len(history) - self._start
        q = self._q[said : said + k]
        if not q:
            return Draft()
        tokens = tuple(draw(row, sampler.uniforms(len(history) + i)[0]) for i, row in enumerate(q))
        return Draft(tokens, np.stack(q), evidence=(0,) * len(tokens))


def _commonest(tokens: Answers) -> int:
    return int(np.bincount(tokens[tokens >= 0], minlength=1).argmax())


def _half(tokens: Answers, vocab_size: int) -> Probabilities:
    counts = np.bincount(tokens[tokens >= 0], minlength=vocab_size)
    q = np.zeros(vocab_size)
    kept = np.argsort(-counts, kind="stable")[::2]
    q[kept] = counts[kept]
    q[kept[0]] += not q.any()
    return q / q.sum()
