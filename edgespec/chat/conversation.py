"""What a conversation is made of: messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from edgespec.errors import UsageError

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `ids`, where given, are put into the prompt in place of `content`: an answer goes back as the very
    tokens that were generated, an end-of-text token included, so that the KV cache of earlier turns stays valid.

    Raises: UsageError for an unknown role (a role becomes part of the template's own text, so it is never free text).
    """

    role: Role
    content: str
    ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise UsageError(f"A message has the unknown role {self.role!r}: use one of {', '.join(get_args(Role))}.")
