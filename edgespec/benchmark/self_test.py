"""Is speculation lossless for this pair, on this machine? A test of the whole, from the message to the tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from edgespec.benchmark.drafters import HalfDrafter, LikeliestDrafter, Prompter
from edgespec.benchmark.measure import converse
from edgespec.benchmark.prompts import Prompt
from edgespec.benchmark.two_sample import Answers, p_value
from edgespec.chat.events import Answer
from edgespec.chat.session import Chat, Settings
from edgespec.decoding.controller import Controller
from edgespec.decoding.costs import Costs, DraftCost
from edgespec.decoding.protocols import Draft, Drafter, Fixed, Policy
from edgespec.decoding.sampling import Sampler
from edgespec.decoding.stats import Round
from edgespec.decoding.tree import Branching
from edgespec.errors import UsageError

ALARM = 0.01
"""How often the self-test may call a lossless pair lossy."""
ANSWERS, POSITIONS = 256, 4
"""How many answers are sampled in each way, and how many tokens of each."""
_LENGTHS = (1, 2, 4, 8)
_TOKENS = 48
_PROMPTS = 4
_SAMPLED_K = 3
_QUESTION = Prompt("tomato", "self-test", ("Is a tomato a fruit or a vegetable?",))


@dataclass(frozen=True, slots=True)
class SameBytes:
    """Whether greedy answers were those of plain decoding. `prompt` is the first whose answer was not."""

    way: str
    k: int
    proposed: int
    accepted: int
    prompt: str | None


@dataclass(frozen=True, slots=True)
class SameDistribution:
    """How likely answers sampled at temperature 1 differ from plain decoding's as much as they do by chance alone."""

    way: str
    proposed: int
    accepted: int
    p: float


@dataclass(frozen=True, slots=True)
class SelfTest:
    """`same_bytes` is empty where exact mode does not hold. A p under `limit` is an alarm: the limit is ALARM shared
    among all tests (Bonferroni)."""

    same_bytes: tuple[SameBytes, ...]
    same_distribution: tuple[SameDistribution, ...]

    @property
    def limit(self) -> float:
        return ALARM / len(self.same_distribution)

    @property
    def lossless(self) -> bool:
        return all(test.prompt is None for test in self.same_bytes) and all(
            test.p >= self.limit for test in self.same_distribution
        )


def self_test(chat: Chat, prompts: Sequence[Prompt], *, seed: int, progress: Callable[[float], None]) -> SelfTest:
    """Compare the chat's drafters, alone and under the controller, and others that are wrong on purpose, with plain
    decoding. The same for the same seed. Raises: UsageError without a drafter; GenerationError."""
    policy, settings = chat.policy, chat.settings
    controller = policy.policy if isinstance(policy, Branching) else policy
    if not isinstance(controller, Controller):
        raise UsageError(
            "--self-test compares a draft with plain decoding, and there is none here; leave out --draft none."
        )
    exact = settings.exact is not False
    greedy = dataclasses.replace(settings.sampling, temperature=0.0, seed=None)
    sampled = dataclasses.replace(settings.sampling, temperature=1.0)
    same_bytes: list[SameBytes] = []
    same_distribution: list[SameDistribution] = []
    try:
        if exact:
            fixed = dataclasses.replace(settings, sampling=greedy, exact=True, max_tokens=_TOKENS, stop=())
            for found in _same_bytes(chat, controller, fixed, prompts[:_PROMPTS]):
                same_bytes.append(found)
                progress(0.5 * len(same_bytes) / (len(_LENGTHS) * (len(controller.drafters) + 1) + 1))
        free = dataclasses.replace(settings, sampling=sampled, exact=exact, max_tokens=POSITIONS, stop=())
        for found in _same_distribution(chat, controller, free, seed):
            same_distribution.append(found)
            progress(0.5 + 0.5 * len(same_distribution) / (len(controller.drafters) + 3 + (policy is not controller)))
    finally:
        chat.use(policy, settings)
    return SelfTest(tuple(same_bytes), tuple(same_distribution))


def _same_bytes(
    chat: Chat, controller: Controller, settings: Settings, prompts: Sequence[Prompt]
) -> Iterator[SameBytes]:
    questions = [dataclasses.replace(prompt, turns=prompt.turns[:1]) for prompt in prompts]
    plain = [_answer(chat, None, settings, question) for question in questions]
    for drafter in (*controller.drafters, None):
        for k in _LENGTHS:
            policies = [Fixed(drafter or Prompter(answer.tokens, answer.prompt_tokens)) for answer in plain]
            limited = dataclasses.replace(settings, draft_max=k)
            yield _compare_bytes(chat, policies, limited, questions, plain)
    yield _compare_bytes(chat, [controller] * len(plain), settings, questions, plain, "controller")


def _compare_bytes(
    chat: Chat,
    policies: Sequence[Policy],
    settings: Settings,
    questions: Sequence[Prompt],
    plain: Sequence[Answer],
    way: str | None = None,
) -> SameBytes:
    proposed = accepted = 0
    differs = None
    for policy, question, expected in zip(policies, questions, plain, strict=True):
        answer = _answer(chat, policy, settings, question)
        proposed += answer.stats.proposed
        accepted += answer.stats.accepted
        if differs is None and (answer.tokens, answer.text) != (expected.tokens, expected.text):
            differs = question.question_id
    return SameBytes(way or policies[0].name, settings.longest_draft, proposed, accepted, differs)


def _same_distribution(chat: Chat, controller: Controller, settings: Settings, seed: int) -> Iterator[SameDistribution]:
    settings = dataclasses.replace(settings, draft_max=_SAMPLED_K)
    begins = _answer(chat, None, settings, _QUESTION).prompt_tokens
    plain, *_ = _sample(chat, None, settings, seed, 0)
    known: list[Drafter] = [LikeliestDrafter(plain, begins), HalfDrafter(plain, begins, chat.vocab_size)]
    ways: list[tuple[str, Policy]] = [(d.name, Fixed(d)) for d in (*controller.drafters, *known)]
    ways.append(("controller", _Timeless(controller.drafters, settings.exact_mode)))
    if settings.draft_branches > 1:
        branching = Branching(ways[-1][1], settings.draft_branches - 1)
        ways.append(("branches", branching))
    for n, (way, policy) in enumerate(ways, 1):
        answers, proposed, accepted = _sample(chat, policy, settings, seed, n)
        yield SameDistribution(way, proposed, accepted, p_value(plain, answers, seed))


def _sample(chat: Chat, policy: Policy | None, settings: Settings, seed: int, way: int) -> tuple[Answers, int, int]:
    """ANSWERS answers, each with a seed that no other has; how many tokens were proposed and accepted."""
    answers = np.full((ANSWERS, POSITIONS), -1, np.int64)
    proposed = accepted = 0
    for i in range(ANSWERS):
        digest = blake2b(f"{seed} {way} {i}".encode(), digest_size=8).digest()
        sampling = dataclasses.replace(settings.sampling, seed=int.from_bytes(digest, "little"))
        answer = _answer(chat, policy, dataclasses.replace(settings, sampling=sampling), _QUESTION)
        answers[i, : len(answer.tokens)] = answer.tokens
        proposed += answer.stats.proposed
        accepted += answer.stats.accepted
    return answers, proposed, accepted


def _answer(chat: Chat, policy: Policy | None, settings: Settings, prompt: Prompt) -> Answer:
    answers = [event for event in converse(chat, policy, settings, prompt) if isinstance(event, Answer)]
    if not answers:
        raise UsageError("the context is too short for the self-test; raise --ctx-size.")
    return answers[0]


class _Timeless:
    """A controller that is told made-up times, so that what it chooses does not depend on the machine's mood: the text
    of a sampled draft depends on what is proposed, although its distribution does not."""

    name = "controller"

    def __init__(self, drafters: Sequence[Drafter], exact: bool) -> None:
        rows = tuple(1.0 + 0.05 * n for n in range(_SAMPLED_K + 1))
        drafts = {drafter.name: DraftCost(0.01, 0.01) for drafter in drafters}
        costs = Costs((16, 64), (rows, rows), (1.0, 1.0), drafts)
        self._controller = Controller(drafters, costs, exact=exact, name=self.name)

    def propose(self, history: Sequence[int], k: int, sampler: Sampler) -> Draft:
        return self._controller.propose(history, k, sampler)

    def observe(self, done: Round) -> None:
        rows = len(done.proposed)
        self._controller.observe(dataclasses.replace(done, draft_ms=0.01 * (rows > 0), verify_ms=1.0 + 0.05 * rows))

    def rewind(self, length: int) -> None:
        self._controller.rewind(length)
