"""Prompt lookup: what followed the last time these tokens stood in the prompt or the conversation (Saxena 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from edgespec.decoding.protocols import Draft, Worth, always
from edgespec.decoding.sampling import Sampler

MAX_MATCH = 8
"""Tokens. A longer match says hardly more."""
_WITNESSES = 2
"""Other places that are asked whether they go on in the same way."""
_DISAGREE, _ALONE, _AGREE = range(3)

USUAL = (
    *(0.15, 0.33, 0.63),
    *(0.34, 0.63, 0.79),
    *(0.34, 0.65, 0.79),
    *(0.36, 0.71, 0.84),
    *(0.37, 0.77, 0.83),
    *(0.37, 0.81, 0.89),
    *(0.37, 0.81, 0.95),
    *(0.48, 0.88, 0.98),
)
"""How often a proposal is accepted: a row for each length of match, 1 to MAX_MATCH; in it, other places where the same
tokens stood go on otherwise, there are none, or they go on in the same way (docs/benchmarks.md)."""


_LOOK_BACK = 64
"""Places. Those further back are not asked for other continuations."""


class NgramDrafter:
    """Proposes the continuation of the most recent place where the longest suffix of the history stood before.

    Evidence of a proposal, as an index into USUAL: how many tokens agree before it, and whether the most recent other
    places go on in the same way: those with as long a match or, where there are none, with one that is a token shorter.
    Chosen, not sampled: q is one-hot. Costs microseconds: an index of pairs of tokens grows with the history.
    """

    name = "ngram"
    usual = USUAL
    upfront = True

    def __init__(self) -> None:
        self._tokens: list[int] = []
        # Where a token, and a token behind another one, stand: indexes of the last token, rising.
        self._singles: dict[int, list[int]] = {}
        self._pairs: dict[tuple[int, int], list[int]] = {}

    def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        self._read(history)
        match, places = self._places()
        if not match or k < 1:
            return Draft()
        source, *witnesses = places
        draft = self._tokens[source : source + k]
        agreement = self._agreement(draft, witnesses)
        while len(draft) < k:  # the match overlaps the end: the text repeats itself, so does the draft
            draft.append(draft[len(draft) - (len(self._tokens) - source)])
        # Once a proposal is accepted the match is longer by it.
        evidence = [3 * (min(match + i, MAX_MATCH) - 1) + agreement[min(i, len(agreement) - 1)] for i in range(k)]
        return Draft(tuple(draft), evidence=tuple(evidence))

    def followers(self, history: Sequence[int], count: int) -> list[int]:
        """At most `count` different tokens that followed the last tokens where they stood before: those of the longer
        matches first, and of these the latest."""
        self._read(history)
        matched = self._matched(_LOOK_BACK)
        longest = max((match for _, match in matched), default=1)
        levels = [[end for end, match in matched if match >= least] for least in range(longest, 1, -1)]
        found: dict[int, None] = {}
        for ends in [*levels, self._before(_LOOK_BACK)]:
            for end in ends[:_LOOK_BACK]:
                found.setdefault(self._tokens[end + 1])
                if len(found) == count:
                    return list(found)
        return list(found)

    def lag(self, length: int) -> int:
        return 0

    def rewind(self, length: int) -> None:
        tokens = self._tokens
        while len(tokens) > length:
            last = tokens.pop()
            self._singles[last].pop()
            if tokens:
                self._pairs[tokens[-1], last].pop()

    def _places(self) -> tuple[int, list[int]]:
        """(how many of the last tokens stood before, at most MAX_MATCH; where they were followed by what: the most
        recent place first, then the witnesses)."""
        wanted = 1 + _WITNESSES
        matched = self._matched(wanted)
        longest = max((match for _, match in matched), default=1)
        ends = [end for end, match in matched if match == longest] or self._before(wanted)
        if not ends:
            return 0, []
        source, *others = ends[:wanted]
        if not others:
            shorter = self._before(wanted) if longest <= 2 else [end for end, match in matched if match >= longest - 1]
            others = [end for end in shorter if end != source][:_WITNESSES]
        return longest, [source + 1, *(end + 1 for end in others)]

    def _before(self, count: int) -> list[int]:
        """Where the last token stood before, the latest first, `count` places at most."""
        return self._singles[self._tokens[-1]][-2 : -2 - count : -1]

    def _matched(self, enough: int) -> list[tuple[int, int]]:
        """Where the last two tokens ended before, the latest first, and how many of the last tokens did, 2 to
        MAX_MATCH. Places before `enough` of MAX_MATCH are left out."""
        tokens = self._tokens
        if len(tokens) < 2:
            return []
        matched: list[tuple[int, int]] = []
        last = tokens[: -MAX_MATCH - 1 : -1]
        for end in self._pairs[tokens[-2], tokens[-1]][-2::-1]:
            match = 2
            while match < len(last) and match <= end and tokens[end - match] == last[match]:
                match += 1
            matched.append((end, match))
            enough -= match == MAX_MATCH
            if not enough:
                break
        return matched

    def _read(self, history: Sequence[int]) -> None:
        tokens = self._tokens
        for place in range(len(tokens), len(history)):
            token = history[place]
            self._singles.setdefault(token, []).append(place)
            if place:
                self._pairs.setdefault((tokens[-1], token), []).append(place)
            tokens.append(token)

    def _agreement(self, draft: Sequence[int], witnesses: Sequence[int]) -> list[int]:
        """For each proposal, what the witnesses say that have agreed with all before it."""
        heard = [self._tokens[place : place + len(draft)] for place in witnesses]
        found: list[int] = []
        for i, token in enumerate(draft):
            heard = [text for text in heard if i < len(text)]
            if not heard:
                return found + [_ALONE] * (len(draft) - i)
            agreeing = [text for text in heard if text[i] == token]
            found.append(_AGREE if len(agreeing) == len(heard) else _DISAGREE)
            heard = agreeing
        return found
