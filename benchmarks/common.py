"""What the measurements share."""

from __future__ import annotations

from edgespec.benchmark import Prompt
from edgespec.bundle import Bundle
from edgespec.chat.conversation import Message
from edgespec.chat.template import ChatTemplate
from edgespec.chat.tokenizer import Tokenizer


def prompt_ids(bundle: Bundle, prompts: list[Prompt]) -> list[list[int]]:
    """The ids of each prompt's first turn."""
    tokenizer = Tokenizer.load(bundle.tokenizer)
    template = ChatTemplate(bundle.chat_template, tokenizer)
    return [template.render_ids([Message("user", prompt.turns[0])]) for prompt in prompts]
