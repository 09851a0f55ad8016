"""What the screen needs from a chat. `edgespec.chat.session.Chat` has it; the tests' scripted chat too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from edgespec.chat.conversation import Message
from edgespec.chat.events import Event

if TYPE_CHECKING:
    from edgespec.chat.session import Settings  # NumPy comes with it
    from edgespec.decoding.costs import Costs


class Engine(Protocol):
    """A conversation with one model. `messages`: what it knows of it; may be changed between two turns.
    `opens_thought`: whether the answer that comes begins inside a thought; known with its first event."""

    messages: list[Message]
    opens_thought: bool

    @property
    def settings(self) -> Settings: ...

    @property
    def model(self) -> str: ...

    @property
    def draft(self) -> str | None:
        """A bundle's name, "ngram", or None."""
        ...

    @property
    def device(self) -> str: ...

    @property
    def tokenizer_sha256(self) -> str:
        """What gives token ids their meaning."""
        ...

    @property
    def exact(self) -> bool: ...

    @property
    def costs(self) -> Costs | None:
        """What passes and proposals take here, if that was measured."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; maybe half a character."""
        ...

    @property
    def context_length(self) -> int: ...

    @property
    def context_used(self) -> int:
        """How many positions the cache holds. May be read from any thread."""
        ...

    def send(self, text: str) -> Iterator[Event]:
        """Answer `text`. Blocks, so it belongs in a worker thread. Raises EdgespecError."""
        ...

    def adjust(self, settings: Settings) -> None:
        """Go by `settings` from the next turn on, under their system message. Not while `send` runs."""
        ...

    def excess(self, text: str, room: int = 1) -> int:
        """By how many tokens the conversation with `text` is too long for an answer of `room` tokens."""
        ...

    def stop(self) -> None:
        """End the running `send` soon, from any thread; its Answer then says "cancelled" and keeps the text so far."""
        ...

    def clear(self) -> None:
        """Begin a new conversation. Not while `send` runs."""
        ...

    def close(self) -> None: ...


Progress = Callable[[str, float], None]
"""Told what a load is doing and the fraction done, 0..1. It raises CancelledError when the user quits."""

Load = Callable[[Progress], Engine]
"""Opens a model, fetching it first where it is missing. Blocks. Raises EdgespecError."""
