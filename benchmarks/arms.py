"""Does the controller find the best arm, and what does a bad drafter cost?

    python -m benchmarks.arms [--model NAME] [--draft NAME] [--prompts FILE.jsonl] [--limit N] [--json FILE]

Every fixed arm (plain, and each drafter at each draft length) and the controller answer each prompt in turn, in one
process and in an order that moves on from prompt to prompt. Then answers of up to 512 tokens with drafters that are
always wrong, or ten times slower than a plain pass, under a controller that meets them for the first time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from edgespec.benchmark import BUILT_IN, Prompt, converse, read_prompts
from edgespec.benchmark.intervals import Interval, Totals, bootstrap
from edgespec.chat.events import Answer
from edgespec.chat.session import Chat, Settings
from edgespec.decoding.controller import Controller
from edgespec.decoding.costs import DraftCost
from edgespec.decoding.protocols import Draft, Fixed, Policy, Worth, always
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.engine import Resources, open_chat

LONG = 512
PLAIN, PLAIN_EXACT, CONTROLLER = "plain", "plain, exact", "controller"


@dataclass(slots=True)
class Arm:
    """A way to answer, and what its answers to each prompt took: (category, tokens, milliseconds)."""

    policy: Policy | None
    settings: Settings
    answers: list[tuple[str, int, float]] = field(default_factory=list[tuple[str, int, float]])

    def answer(self, chat: Chat, prompt: Prompt, seed: int) -> tuple[int, ...]:
        """The tokens of all turns; with one seed every arm that draws draws alike."""
        sampling = dataclasses.replace(self.settings.sampling, seed=seed)
        settings = dataclasses.replace(self.settings, sampling=sampling)
        found = [e for e in converse(chat, self.policy, settings, prompt) if isinstance(e, Answer)]
        tokens = tuple(token for answer in found for token in answer.tokens)
        self.answers.append((prompt.category, len(tokens), sum(answer.predicted_ms for answer in found)))
        return tokens

    def totals(self, category: str | None) -> Totals:
        """float64 [prompts, 2]: tokens and milliseconds of the prompts of a category, or of all."""
        return np.array([(n, ms) for of, n, ms in self.answers if category in (None, of)])

    def speed(self, category: str | None) -> float:
        """Tokens per second."""
        tokens, ms = self.totals(category).sum(axis=0)
        return float(tokens / ms * 1e3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--draft", help="as `edgespec run` takes it")
    parser.add_argument("--prompts", type=Path, default=BUILT_IN)
    parser.add_argument("--limit", type=int, help="prompts of each category")
    parser.add_argument("--tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(range(1, 9)), help="draft lengths")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7])
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--long-prompts", type=int, default=4, help="answers with bad drafters; 0 leaves them out")
    parser.add_argument("--json", type=Path, help="also write the figures")
    options = parser.parse_args()
    prompts = read_prompts(options.prompts, options.limit)
    report: dict[str, Any] = {"model": options.model, "draft": options.draft, "prompts": len(prompts)}
    for temperature in options.temperatures:
        settings = Settings(Sampling(temperature=temperature), max_tokens=options.tokens)
        chat = open_chat(options.model, draft=options.draft, settings=settings, resources=Resources(4096), offline=True)
        arms = search(chat, prompts, options.lengths, options.repeat)
        report[f"temperature {temperature:g}"] = found = summarize(arms)
        print_table(f"temperature {temperature:g}, {len(prompts)} prompts", found)
        if options.long_prompts and temperature == 0.0:
            longer = prompts[:: max(len(prompts) // options.long_prompts, 1)][: options.long_prompts]
            report["bad drafters"] = bad = endure(chat, longer, options.repeat)
            for name, figures in bad.items():
                print(
                    f"{name:24}{figures['against_plain']:8.3f} of plain, {figures['tokens']} tokens, "
                    f"{figures['against_exact']:.3f} of plain in exact mode, same text: {figures['same_text']}"
                )
    if options.json:
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")


def search(chat: Chat, prompts: Sequence[Prompt], lengths: Sequence[int], repeat: int) -> dict[str, Arm]:
    """Let every arm answer every prompt."""
    controller, settings = chat.policy, chat.settings
    assert isinstance(controller, Controller)
    arms = {PLAIN: Arm(None, dataclasses.replace(settings, exact=False))}
    if settings.exact_mode:
        arms[PLAIN_EXACT] = Arm(None, settings)
    for drafter in controller.drafters:
        for k in lengths:
            arms[f"{drafter.name} k={k}"] = Arm(Fixed(drafter), dataclasses.replace(settings, draft_max=k))
    arms[CONTROLLER] = Arm(controller, settings)
    for arm in arms.values():
        arm.answer(chat, prompts[0], 0)
        arm.answers.clear()
    turns = list(arms.values())
    for n in range(repeat):
        for i, prompt in enumerate(prompts):
            first = (i * 7 + n) % len(turns)
            for arm in turns[first:] + turns[:first]:
                arm.answer(chat, prompt, i)
            print(f"\r{n * len(prompts) + i + 1} of {repeat * len(prompts)}", end="", flush=True)
    print("\r", end="")
    chat.use(controller, settings)
    return arms


def summarize(arms: dict[str, Arm]) -> dict[str, Any]:
    """The controller against plain, and against the fixed arm that was best, for each category and for all."""
    controller = arms[CONTROLLER]
    fixed = {name: arm for name, arm in arms.items() if name != CONTROLLER}
    found: dict[str, Any] = {}
    for category in (*dict.fromkeys(of for of, _, _ in controller.answers), None):
        best = max(fixed, key=lambda name: fixed[name].speed(category))
        found[category or "all"] = {
            "plain_tps": arms[PLAIN].speed(category),
            "controller_tps": controller.speed(category),
            "best_fixed": best,
            "controller / plain": ratio(controller, arms[PLAIN], category),
            "controller / plain, 95 %": interval(controller, arms[PLAIN], category),
            "controller / best fixed": ratio(controller, arms[best], category),
            "controller / best fixed, 95 %": interval(controller, arms[best], category),
            "tps": {name: arm.speed(category) for name, arm in arms.items()},
        }
    return found


def ratio(a: Arm, b: Arm, category: str | None) -> float:
    return a.speed(category) / b.speed(category)


def interval(a: Arm, b: Arm, category: str | None) -> Interval | None:
    parts = np.concatenate([a.totals(category), b.totals(category)], axis=1)
    return bootstrap(parts, lambda t: (t[0] / t[1]) / (t[2] / t[3]))


def print_table(title: str, found: dict[str, Any]) -> None:
    print(
        f"\n{title}\n{'':16}{'plain':>8}{'control':>9}{'/ plain':>9}{'95 %':>13}{'/ best':>9}{'95 %':>13}  best fixed"
    )
    for category, f in found.items():
        cells = [f"{f['plain_tps']:8.1f}{f['controller_tps']:9.1f}"]
        for against in ("plain", "best fixed"):
            limits = f[f"controller / {against}, 95 %"]
            limits = "–" if limits is None else f"{limits[0]:.2f}–{limits[1]:.2f}"
            cells.append(f"{f[f'controller / {against}']:9.3f}{limits:>13}")
        print(f"{category:16}{''.join(cells)}  {f['best_fixed']}")


class Bad:
    """A drafter that knows the answer. wrong: it says something else. seconds: it takes for each token. upfront:
    whether it is asked before it is decided on."""

    usual = (0.9,)

    def __init__(self, name: str, prompt_tokens: int, answer: Sequence[int], *, wrong: bool, ms: float, upfront: bool):
        self.name, self.upfront = name, upfront
        self._start, self._answer, self._wrong, self._seconds = prompt_tokens, answer, wrong, ms / 1e3

    def propose(self, history: Sequence[int], k: int, sampler: Sampler, worth: Worth = always) -> Draft:
        said = len(history) - self._start
        tokens: list[int] = []
        for right in self._answer[said : said + k]:
            if tokens and not worth([0] * len(tokens)):
                break
            end = perf_counter() + self._seconds
            while perf_counter() < end:
                pass
            tokens.append((right or 2) - 1 if self._wrong else right)
        return Draft(tuple(tokens), evidence=(0,) * len(tokens))

    def lag(self, length: int) -> int:
        return 0

    def rewind(self, length: int) -> None:
        """Nothing is kept."""


def endure(chat: Chat, prompts: Sequence[Prompt], repeat: int) -> dict[str, Any]:
    """Long answers with drafters that cannot win."""
    controller = chat.policy
    assert isinstance(controller, Controller)
    costs = controller.measured
    step = costs.passes[0][0]
    kinds = {
        "wrong, free": {"wrong": True, "ms": 0.0, "upfront": True},
        "wrong, 0.3 of a pass": {"wrong": True, "ms": 0.3 * step, "upfront": False},
        "right, 10 passes": {"wrong": False, "ms": 10.0 * step, "upfront": False},
    }
    settings = dataclasses.replace(chat.settings, max_tokens=LONG)
    plain, exact = Arm(None, dataclasses.replace(settings, exact=False)), Arm(None, settings)
    arms = {name: Arm(None, settings) for name in kinds}
    same = dict.fromkeys(kinds, True)
    for i, prompt in enumerate([*prompts] * repeat):
        first = dataclasses.replace(prompt, turns=prompt.turns[:1])
        *_, reference = converse(chat, None, settings, first)
        assert isinstance(reference, Answer)
        for name, arm in arms.items():
            kind: dict[str, Any] = kinds[name]
            bad = Bad(name, reference.prompt_tokens, reference.tokens, **kind)
            known = dataclasses.replace(costs, drafts={name: DraftCost(0.01, kind["ms"])})
            arm.policy = Controller([bad], known, exact=settings.exact_mode, name=name)
        turns = [(PLAIN, plain), (PLAIN_EXACT, exact), *arms.items()]
        for name, arm in turns[i % len(turns) :] + turns[: i % len(turns)]:
            tokens = arm.answer(chat, first, i)
            if name in same:
                same[name] &= tokens == reference.tokens
    return {
        name: {
            "against_plain": ratio(arm, plain, None),
            "against_exact": ratio(arm, exact, None),
            "tokens": int(arm.totals(None)[:, 0].sum()),
            "same_text": same[name],
        }
        for name, arm in arms.items()
    }


if __name__ == "__main__":
    main()
