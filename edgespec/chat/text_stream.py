"""Tokens to text while they come."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence

from edgespec.chat.tokenizer import Tokenizer
from edgespec.errors import UsageError


class TextStream:
    """The text of one answer, piece by piece.

    Push each token, take the text that may be shown, finish once. However the tokens cut the text, all that was taken
    plus the rest is what `Tokenizer.decode` gives for the whole answer, up to its end: an end-of-text token (which has
    no text), or the first stop string to be complete (which is not part of the text). If two are complete with the same
    character, the longer one counts.

    Until `finish`, nothing is given out that a later token could change: neither half a character nor the beginning of
    a stop string. The cost of a token does not depend on how long the answer is.

    Raises: UsageError for an empty stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), eos_ids: Collection[int] = ()) -> None:
        if "" in stop:
            raise UsageError("A stop string is empty, so every answer would be: leave it out, or give it some text.")
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._longest_stop = max(map(len, stop), default=0)
        self._eos_ids = frozenset(eos_ids)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._ready = ""
        self._held = ""
        self._ended = False

    def push(self, token: int) -> bool:
        """Add a token. True: the answer ends with it; whatever is pushed after that is ignored."""
        if self._ended:
            return True
        if token in self._eos_ids:
            self._ended = True
        else:
            self._add(self._decoder.decode(self._tokenizer.token_bytes(token)))
        return self._ended

    def take(self) -> str:
        """The text that may be shown now and was not taken before."""
        ready, self._ready = self._ready, ""
        return ready

    def finish(self) -> str:
        """The rest of the text: what no further token can change any more. Half a character at the end is U+FFFD."""
        self._add(self._decoder.decode(b"", final=True))
        self._ready += self._held
        self._held = ""
        self._ended = True
        return self.take()

    def _add(self, text: str) -> None:
        text = self._held + text
        ends = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        if ends:
            _, cut = min(ends)
            self._ready += text[:cut]
            self._held = ""
            self._decoder.reset()
            self._ended = True
        else:
            cut = len(text) - self._could_become_stop(text)
            self._ready += text[:cut]
            self._held = text[cut:]

    def _could_become_stop(self, text: str) -> int:
        """The length of the longest end of `text` that begins a stop string."""
        for size in range(min(len(text), self._longest_stop - 1), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stop):
                return size
        return 0
