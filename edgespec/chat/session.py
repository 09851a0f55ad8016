"""A conversation with one model: messages in, events out. Keeps the KV cache between turns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from threading import Event as Flag
from time import perf_counter
from weakref import ref

from edgespec.chat.closed import ClosedModel
from edgespec.chat.conversation import Message
from edgespec.chat.events import Answer, Event, PromptProgress, TextDelta
from edgespec.chat.template import ChatTemplate
from edgespec.chat.text_stream import TextStream
from edgespec.chat.thinking import OPEN
from edgespec.chat.tokenizer import Tokenizer
from edgespec.decoding import ranges
from edgespec.decoding.controller import Controller
from edgespec.decoding.costs import Costs
from edgespec.decoding.passes import prefill
from edgespec.decoding.protocols import CausalLM, Policy
from edgespec.decoding.rounds import generate
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.decoding.stats import FinishReason, Stats
from edgespec.errors import ContextFullError, UsageError

MAX_TOKENS = 1024
"""Where an answer ends unless told otherwise: small models can repeat themselves for ever."""

DRAFT_MAX = 8
"""The longest draft unless told otherwise."""


Remember = Callable[[Sequence[int], int], None]
"""Hears the tokens of a conversation when an answer is made, and where in them it starts."""


def forget(_tokens: Sequence[int], _start: int) -> None:
    """Remembers nothing."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How answers are made. `exact` None: on at temperature 0, where it makes the text independent of the draft.

    `draft_max` is the largest draft length k; None: what `edgespec tune` found, else DRAFT_MAX. `draft_branches`: how
    many ways a draft may go on from its first token. UsageError for a value out of range.
    """

    sampling: Sampling = field(default_factory=Sampling)
    exact: bool | None = None
    draft_max: int | None = None
    draft_branches: int = 1
    max_tokens: int = MAX_TOKENS
    stop: tuple[str, ...] = ()
    system: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.longest_draft <= 64:
            raise UsageError(f"the draft length cannot be {self.draft_max}; it must be between 1 and 64.")
        if not 1 <= self.draft_branches <= 8:
            raise UsageError(f"a draft cannot have {self.draft_branches} branches; it must be 1 to 8.")
        if self.draft_branches > 1 and self.exact_mode:
            raise UsageError("exact mode takes no draft with branches: use --no-exact, or --draft-branches 1.")
        ranges.MAX_TOKENS.require("the number of tokens", self.max_tokens)

    @property
    def longest_draft(self) -> int:
        return DRAFT_MAX if self.draft_max is None else self.draft_max

    @property
    def exact_mode(self) -> bool:
        return self.sampling.temperature == 0.0 if self.exact is None else self.exact


class Chat:
    """A conversation. One thread at a time sends; `stop` may come from any.

    model, draft, device: what runs, for whoever shows it; `draft` is None without one.
    policy, settings: how answers are made; changed by `use`. remember: who hears of the answers, stopped ones too.
    opens_thought: whether the template lets the answer begin inside a thought, known once `send` has begun.
    messages: what was said. They may be edited between two turns: the cache keeps what they still share with it.
    """

    def __init__(
        self,
        target: CausalLM,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        eos_ids: Collection[int],
        policy: Policy | None,
        settings: Settings,
        *,
        model: str,
        device: str,
        remember: Remember = forget,
    ) -> None:
        self.model, self.device = model, device
        self.messages: list[Message] = []
        self.opens_thought = False
        self._target = target
        self._tokenizer, self._template, self._eos_ids = tokenizer, template, eos_ids
        self._remember = remember
        self.settings = settings
        self.use(policy, settings)
        self._history: list[int] = []
        self._lone_from = sys.maxsize  # from here on the cache may stem from passes of one row
        self._stopping = Flag()
        self._running: ref[Generator[Event]] | None = None  # weak: an iterator that nobody holds closes itself
        self.clear()

    @property
    def exact(self) -> bool:
        return self.settings.exact_mode

    @property
    def costs(self) -> Costs | None:
        """What passes and proposals take here, if whoever chooses between them goes by it."""
        return self.policy.measured if isinstance(self.policy, Controller) else None

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; maybe half a character."""
        return self._tokenizer.token_bytes(token)

    @property
    def context_length(self) -> int:
        return self._target.context_length

    @property
    def tokenizer_sha256(self) -> str:
        """Token ids have their meaning by it."""
        return self._tokenizer.sha256

    @property
    def vocab_size(self) -> int:
        return self._target.vocab_size

    @property
    def context_used(self) -> int:
        """How many positions the target's cache holds."""
        return self._target.length

    def clear(self) -> None:
        """Begin a new conversation, under the same system message."""
        self._end_running()
        self.messages = _system(self.settings)
        self._keep([])

    def use(self, policy: Policy | None, settings: Settings) -> None:
        """From the next answer on, draft with `policy` and go by `settings`; a changed system message takes the place
        of the conversation's.

        What the cache holds is kept, as far as exact mode and the messages allow.
        """
        if settings.system != self.settings.system:
            said = [message for message in self.messages if message.role != "system"]
            self.messages = [*_system(settings), *said]
        self.settings = settings
        self.draft = None if policy is None else policy.name
        self.policy = policy
        if policy is not None:
            policy.rewind(0)

    def adjust(self, settings: Settings) -> None:
        """As `use`, with the draft that there is."""
        self.use(self.policy, settings)

    def stop(self) -> None:
        """End the running `send` after the pass it is in, with what it has said so far."""
        self._stopping.set()

    def send(self, text: str) -> Iterator[Event]:
        """Answer `text`: events as they happen, an Answer last. The conversation then has both messages, also if the
        answer was stopped, even before its first token.

        Raises, while it is read: ContextFullError, before anything is computed, if the conversation does not fit;
        GenerationError. After an error, or when the iterator is closed early, the conversation has what was said so
        far; if that is nothing it is what it was before. The next `send`, and `clear`, close an iterator left open.
        """
        self._end_running()
        events = self._events(text)
        self._running = ref(events)
        return events

    def excess(self, text: str, room: int = 1) -> int:
        """By how many tokens the conversation with `text` is too long for an answer of `room` tokens; 0 if it fits.

        Raises: ModelError if the template cannot render it.
        """
        return max(self._excess(self._template.render_ids([*self.messages, Message("user", text)]), room), 0)

    def _excess(self, ids: Sequence[int], room: int = 1) -> int:
        return len(ids) + room - self.context_length

    def close(self) -> None:
        """End the running `send`, if any; else give the models' memory back, whoever still holds this chat."""
        self.stop()
        if self._running is None or self._running() is None:
            self._target = ClosedModel(self.vocab_size, self.context_length)
            self.policy = None

    def _end_running(self) -> None:
        if self._running is not None and (events := self._running()) is not None:
            events.close()

    def _events(self, text: str) -> Generator[Event]:
        began_at = perf_counter()
        self._stopping.clear()
        question = Message("user", text)
        ids = self._template.render_ids([*self.messages, question])
        if (excess := self._excess(ids)) > 0:
            raise ContextFullError(
                f"The conversation has {len(ids)} tokens, {excess} more than the context of {self.context_length} "
                "can take with an answer; shorten the message, begin a new chat, or raise --ctx-size."
            )
        self.opens_thought = self._tokenizer.decode(ids[-8:]).rstrip().endswith(OPEN)
        turn = _Turn(len(ids), TextStream(self._tokenizer, self.settings.stop, self._eos_ids), began_at)
        self.messages.append(question)
        try:
            yield from self._read(ids, turn)
            yield from self._write(turn)
            self._remember(self._history, turn.prompt_tokens)
            yield self._answer(turn)
        finally:  # reached on every way out: an error, a stop, a closed iterator
            tokens = self._tokens(turn)
            if tokens or turn.finish is not None:
                # A text that a stop string cut goes back as text; every other answer as the tokens that it was.
                cut = turn.finish == "stop" and tokens[-1] not in self._eos_ids
                self.messages.append(Message("assistant", turn.text, None if cut else tokens))
            else:
                self.messages.pop()

    def _read(self, ids: list[int], turn: _Turn) -> Iterator[Event]:
        """Prefill what of the prompt is not in the cache yet."""
        self._keep(ids)
        cached = self._target.length
        start = perf_counter()
        turn.prompt_n = max(len(ids) - 1 - cached, 0)
        for length in prefill(self._target, self._history):
            yield PromptProgress(length - cached, turn.prompt_n)
            if self._stopping.is_set():
                break
        turn.read_at = turn.last_at = perf_counter()
        turn.prompt_ms = (turn.read_at - start) * 1e3

    def _write(self, turn: _Turn) -> Iterator[Event]:
        """Decode until the text ends, the context is full, or somebody stops it."""
        if not self.exact:
            self._lone_from = min(self._lone_from, self._target.length)
        rounds = generate(
            self._target,
            self._history,
            self.policy,
            k=self.settings.longest_draft,
            sampler=Sampler(self.settings.sampling),
            max_tokens=self.settings.max_tokens,
            ends=turn.stream.push,
            exact=self.exact,
        )
        with closing(rounds):
            while turn.finish is None and not self._stopping.is_set():
                done = next(rounds)
                turn.last_at = perf_counter()
                turn.first_at = turn.first_at or turn.last_at
                turn.stats.add(done)
                turn.finish = done.finish
                yield TextDelta(turn.show(), done)
        turn.finish = turn.finish or "cancelled"

    def _answer(self, turn: _Turn) -> Answer:
        assert turn.finish is not None  # _write has ended
        return Answer(
            text=turn.text,
            tokens=self._tokens(turn),
            finish_reason=turn.finish,
            prompt_tokens=turn.prompt_tokens,
            prompt_n=turn.prompt_n,
            prompt_ms=turn.prompt_ms,
            ttft_ms=((turn.first_at or turn.last_at) - turn.began_at) * 1e3,
            predicted_ms=(turn.last_at - turn.read_at) * 1e3,
            exact=self.exact,
            stats=turn.stats,
        )

    def _tokens(self, turn: _Turn) -> tuple[int, ...]:
        return tuple(self._history[turn.prompt_tokens :])

    def _keep(self, ids: list[int]) -> None:
        """Make `ids` the history. The caches keep the positions that it shares with the history before."""
        same = next((i for i, (a, b) in enumerate(zip(self._history, ids, strict=False)) if a != b), None)
        shared = min(len(self._history), len(ids)) if same is None else same
        kept = min(shared, max(len(ids) - 1, 0))  # the last token is always fed anew: its logits are needed
        if self.exact:
            kept = min(kept, self._lone_from)
        if kept <= self._lone_from:
            self._lone_from = sys.maxsize
        self._target.rewind(min(self._target.length, kept))
        if self.policy is not None:
            self.policy.rewind(kept)
        self._history = ids


def _system(settings: Settings) -> list[Message]:
    return [] if settings.system is None else [Message("system", settings.system)]


@dataclass(slots=True)
class _Turn:
    """What is known about an answer while it is made. `*_at`: perf_counter seconds, 0 before it happened."""

    prompt_tokens: int
    stream: TextStream
    began_at: float
    stats: Stats = field(default_factory=Stats)
    prompt_n: int = 0
    prompt_ms: float = 0.0
    text: str = ""
    finish: FinishReason | None = None
    read_at: float = 0.0
    first_at: float = 0.0
    last_at: float = 0.0

    def show(self) -> str:
        """The text that the last round made ready; what is held back too if it was the last of all."""
        shown = self.stream.take() if self.finish is None else self.stream.finish()
        self.text += shown
        return shown
