"""One answer of a table-driven target, and what it must be. Shared by the tests of the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from fakes import COSTS, Table, TableModel, contrarian, erratic, likeliest, oracle, policy, random_table, silent

from edgespec.decoding.controller import Controller
from edgespec.decoding.drafters.draft_model import DraftModelDrafter
from edgespec.decoding.drafters.ngram import NgramDrafter
from edgespec.decoding.passes import prefill
from edgespec.decoding.protocols import Drafter
from edgespec.decoding.rounds import generate
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.decoding.stats import FinishReason, Round, Stats

TARGET = random_table(6, seed=11)
OTHER = TARGET + random_table(6, seed=12, scale=0.7)
"""A draft model's table: often right about TARGET, not always."""

PROMPT = (3, 1, 4, 1, 5)
CONTEXT = 256

MakeDrafter = Callable[[], Drafter | Controller | None]


def controller(draft: TableModel) -> Controller:
    """All kinds of drafters, and the choice among them."""
    drafters = [NgramDrafter(), erratic(TARGET, seed=5), DraftModelDrafter(draft)]
    return Controller(drafters, COSTS, exact=True, name="controller")


DRAFTERS: dict[str, MakeDrafter] = {
    "none": lambda: None,
    "silent": silent,
    "oracle": lambda: oracle(TARGET),
    "contrarian": lambda: contrarian(TARGET),
    "erratic": lambda: erratic(TARGET, seed=3),
    "ngram": lambda: NgramDrafter(),
    "draft model": lambda: DraftModelDrafter(TableModel(OTHER, context_length=CONTEXT)),
    "the target itself": lambda: DraftModelDrafter(TableModel(TARGET, context_length=CONTEXT)),
    "controller": lambda: controller(TableModel(OTHER, context_length=CONTEXT)),
    "small context": lambda: DraftModelDrafter(TableModel(OTHER, context_length=12)),
}

GREEDY = Sampling()


@dataclass
class Run:
    """An answer in the making."""

    target: TableModel
    history: list[int]
    drafter: Drafter | Controller | None
    prompt_length: int
    rounds: list[Round] = field(default_factory=list[Round])
    stats: Stats = field(default_factory=Stats)
    reason: FinishReason | None = None

    @property
    def text(self) -> list[int]:
        return self.history[self.prompt_length :]

    def check(self) -> None:
        """What must hold between two rounds."""
        assert self.target.cached == self.history[:-1]
        if isinstance(self.drafter, DraftModelDrafter) and isinstance(self.drafter.model, TableModel):
            cached = self.drafter.model.cached
            assert cached == self.history[:-1][: len(cached)]


def never(token: int) -> bool:
    return False


def start(
    drafter: Drafter | Controller | None,
    *,
    prompt: Sequence[int] = PROMPT,
    table: Table = TARGET,
    context: int = CONTEXT,
    exact: bool = True,
    noise: float = 0.0,
    fails_at: Sequence[int] = (),
) -> Run:
    target = TableModel(table, context_length=context, lone_row_noise=noise, fails_at=fails_at)
    for _ in prefill(target, prompt):
        pass
    return Run(target, list(prompt), drafter, len(prompt))


def go_on(
    run: Run,
    *,
    k: int = 4,
    max_tokens: int = 24,
    exact: bool = True,
    sampling: Sampling = GREEDY,
    ends: Callable[[int], bool] = never,
    stop_after: int | None = None,
) -> Run:
    """Decode to the end, or close after `stop_after` rounds; checks the caches after every round."""
    answer = generate(
        run.target,
        run.history,
        policy(run.drafter),
        k=k,
        sampler=Sampler(sampling),
        max_tokens=max_tokens,
        ends=ends,
        exact=exact,
        clock=count().__next__,
    )
    while stop_after is None or len(run.rounds) < stop_after:
        made = next(answer, None)
        if made is None:
            break
        assert run.reason is None, "a round after the last"
        run.reason = made.finish
        run.rounds.append(made)
        run.stats.add(made)
        run.check()
    answer.close()
    run.check()
    return run


def greedy_text(count: int, prompt: Sequence[int] = PROMPT, table: Table = TARGET) -> list[int]:
    """What the target says, one token after the other, without any of our code."""
    text = list(prompt)
    for _ in range(count):
        text.append(likeliest(table, text))
    return text[len(prompt) :]
