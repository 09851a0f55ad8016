"""A private chat with a language model on this machine, made faster by lossless speculative decoding.

import edgespec

chat = edgespec.open_chat("smollm2-135m")
for event in chat.send("Why is the sky blue?"):
    if isinstance(event, edgespec.TextDelta):
        print(event.text, end="", flush=True)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgespec.chat.conversation import Message
    from edgespec.chat.events import Answer, Event, PromptProgress, TextDelta
    from edgespec.chat.session import Chat, Settings
    from edgespec.decoding.sampling import Sampling
    from edgespec.decoding.stats import Round, Stats
    from edgespec.engine import Resources, open_chat
    from edgespec.errors import EdgespecError

__all__ = [
    "Answer",
    "Chat",
    "EdgespecError",
    "Event",
    "Message",
    "PromptProgress",
    "Resources",
    "Round",
    "Sampling",
    "Settings",
    "Stats",
    "TextDelta",
    "open_chat",
]

_HOME = {
    "Answer": "chat.events",
    "Chat": "chat.session",
    "EdgespecError": "errors",
    "Event": "chat.events",
    "Message": "chat.conversation",
    "PromptProgress": "chat.events",
    "Resources": "engine",
    "Round": "decoding.stats",
    "Sampling": "decoding.sampling",
    "Settings": "chat.session",
    "Stats": "decoding.stats",
    "TextDelta": "chat.events",
    "open_chat": "engine",
}


def __getattr__(name: str) -> object:
    # On first use: `edgespec --version` must not wait for NumPy and ONNX Runtime.
    if name not in _HOME:
        raise AttributeError(f"module 'edgespec' has no attribute {name!r}")
    return getattr(importlib.import_module(f"edgespec.{_HOME[name]}"), name)
