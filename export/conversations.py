"""Training data that the target writes itself: whole conversations, the user's turns included.

From the bare template a chat model writes what a user might say, then answers it. Some user turns begin with one of our
own openers, so that tasks occur that the model alone would seldom think of. Everything it reads or writes is kept with
the hidden states that a head reads, and with what the target would have said next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from edgespec.chat.conversation import Message
from edgespec.chat.template import ChatTemplate
from edgespec.errors import ModelError
from export.torch_llama import TorchLlama

TEMPLATE, USER, ANSWER = 0, 1, 2
"""Who a token is from."""
TOP: Final = 32
"""How many of the target's most likely next tokens are kept."""
_TOP_K, _TOP_P = 50, 0.95
_TEMPERATURES: Final = (0.3, 0.7, 1.0)
_MAX_USER, _MAX_ANSWER = 240, 400
_OPENED, _CONTINUED = 0.6, 0.35
"""How many user turns begin with an opener, and how many answers are followed by another turn."""

OPENERS: Final = (
    "Translate the following German sentence to English: ",
    "Translate this into French: ",
    "Translate German to English: ",
    "Summarize the following text: ",
    "Summarize this article in a few sentences:\n\n",
    "Give me a short summary of this news report: ",
    "Question: ",
    "Answer the question using the passages below.\n\nPassage 1: ",
    "Here is some background information: ",
    "Read the paragraph and answer the question.\n\n",
    "Who ",
    "When did ",
    "Where is ",
    "What is the ",
    "How many ",
    "Why do ",
    "How does ",
    "Solve this problem step by step: ",
    "A farmer has ",
    "A shop sells ",
    "If ",
    "Write a Python function that ",
    "Write a program in C++ that ",
    "Write a SQL query that ",
    "Fix the bug in this code:\n\n",
    "Explain what this code does:\n\n",
    "Implement an algorithm for ",
    "Extract the names and dates from this text: ",
    "From the following reviews, find the ratings and return JSON: ",
    "Make a table of ",
    "Classify the following sentences: ",
    "Correct the grammar of this text: ",
    "Rewrite this paragraph: ",
    "Write an email to ",
    "Write a blog post about ",
    "Write a short story about ",
    "Write a poem about ",
    "Describe ",
    "Pretend you are ",
    "Imagine that you are ",
    "You are an expert in ",
    "Explain ",
    "Explain to a child ",
    "Compare ",
    "What are the differences between ",
    "Give me advice on ",
    "List ten ",
    "Plan a trip to ",
    "Discuss the causes of ",
    "In economics, ",
    "In physics, ",
    "In biology, ",
    "What happened in ",
    "Is it true that ",
    "Can you ",
    "I want to ",
    "My ",
    "Let's play a game: ",
    "Prove that ",
    "Calculate ",
    "Find the value of ",
    "Which of the following is correct? ",
    "Continue this text: ",
    "Create a recipe for ",
)


@dataclass(frozen=True, slots=True)
class ChatIds:
    """The pieces of a chat template as ids: what stands before the first user turn, what ends a turn, and what stands
    behind that before an answer and before the next user turn."""

    opening: tuple[int, ...]
    to_answer: tuple[int, ...]
    to_user: tuple[int, ...]
    end: int


class _Slot:
    """One sequence of a wave: whose turn it is, and what the template still has to say."""

    def __init__(self, ids: ChatIds, openers: Sequence[tuple[int, ...]], random: np.random.Generator) -> None:
        self._ids, self._openers, self._random = ids, openers, random
        self._begin(0)

    def next(self, sampled: int, position: int) -> tuple[int, int, int]:
        """The token at `position`, whose it is and where its conversation begins, given what the model would say."""
        start = self.start
        if self._forced:
            return self._forced.pop(0), TEMPLATE, start
        ended, role = sampled == self._ids.end, self._role
        if not ended and self._said < (_MAX_ANSWER if role == ANSWER else _MAX_USER):
            self._said += 1
            return sampled, role, start
        self._said = 0
        if role == USER:
            self._role, self._forced = ANSWER, list(self._ids.to_answer)
        elif ended and self._random.random() < _CONTINUED:
            self._role, self._forced = USER, [*self._ids.to_user, *self._opener()]
        else:
            self._begin(position + 1)
        return self._ids.end, role if ended else TEMPLATE, start

    def _begin(self, position: int) -> None:
        self.start, self._role, self._said = position, USER, 0
        self._forced = [*self._ids.opening, *self._opener()]
        self.temperature = float(self._random.choice(_TEMPERATURES))

    def _opener(self) -> tuple[int, ...]:
        return self._openers[int(self._random.integers(len(self._openers)))] if self._random.random() < _OPENED else ()

    @property
    def heat(self) -> float:
        """The temperature to sample at: users are as varied as can be."""
        return self.temperature if self._role == ANSWER else 1.0


@torch.inference_mode()
def write_wave(
    target: TorchLlama,
    ids: ChatIds,
    openers: Sequence[tuple[int, ...]],
    *,
    batch: int,
    length: int,
    seed: int,
    progress: Callable[[float], None],
) -> dict[str, Tensor]:
    """Let the target write `batch` sequences of `length` tokens, conversations one behind the other; the same for the
    same seed on the same machine.

    Returns, of B sequences and T tokens: `tokens` int32 [B, T]; `roles` uint8 [B, T], TEMPLATE, USER or ANSWER;
    `starts` int32 [B, T], where the conversation that the token belongs to begins; `taps` bfloat16 [B, T, 3 * D], the
    target's hidden states behind `config.taps` layers; `top_ids` int32 and `top_logits` float16 [B, T, TOP], what it
    would have said next.
    """
    random = np.random.default_rng(seed)
    generator = torch.Generator(target.device).manual_seed(seed)
    slots = [_Slot(ids, openers, random) for _ in range(batch)]
    device, config, cache = target.device, target.config, target.new_cache(batch, length)
    wave = {
        "tokens": torch.zeros(batch, length, dtype=torch.int32),
        "roles": torch.zeros(batch, length, dtype=torch.uint8),
        "starts": torch.zeros(batch, length, dtype=torch.int32),
        "taps": torch.empty(batch, length, len(config.taps) * config.hidden_size, dtype=torch.bfloat16),
        "top_ids": torch.empty(batch, length, TOP, dtype=torch.int32),
        "top_logits": torch.empty(batch, length, TOP, dtype=torch.float16),
    }
    positions = torch.arange(length, device=device)
    sampled = [ids.end] * batch
    for t in range(length):
        said = torch.tensor([slot.next(sampled[b], t) for b, slot in enumerate(slots)])
        wave["tokens"][:, t], wave["roles"][:, t], wave["starts"][:, t] = said.T
        mask = (positions[: t + 1] >= said[:, 2, None].to(device))[:, None, None]
        x, tapped = target.forward(said[:, :1].to(device), cache, t, mask, config.taps)
        likely = target.logits(x[:, 0]).topk(_TOP_K)
        wave["taps"][:, t] = torch.cat([tap[:, 0] for tap in tapped], dim=-1)
        wave["top_ids"][:, t], wave["top_logits"][:, t] = likely.indices[:, :TOP], likely.values[:, :TOP]
        heat = torch.tensor([slot.heat for slot in slots], device=device)
        sampled = _sample(likely.values.float() / heat[:, None], likely.indices, generator).tolist()
        progress((t + 1) / length)
    return wave


def chat_ids(template: ChatTemplate) -> ChatIds:
    """The pieces of a chat template. Raises: ModelError if it does not render a message exactly once."""
    user, answer = Message("user", "", (-1,)), Message("assistant", "", (-2,))
    rendered = template.render_ids([user, answer, user])
    places = [i for i, token in enumerate(rendered) if token < 0]
    if [rendered[i] for i in places] == [-1, -2, -1]:
        first, second, third = places
        (end, *to_answer), (other_end, *to_user) = rendered[first + 1 : second], rendered[second + 1 : third]
        if end == other_end:
            return ChatIds(tuple(rendered[:first]), tuple(to_answer), tuple(to_user), end)
    raise ModelError("The model's chat template does not end all messages alike; no head can be trained for it.")


def _sample(scores: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one of `ids` [B, K] for each row of `scores` [B, K], sorted from the largest, cut at top-p."""
    probabilities = scores.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    drawn = torch.multinomial(probabilities.masked_fill(before >= _TOP_P, 0.0), 1, generator=generator)
    return ids.gather(1, drawn)[:, 0]
