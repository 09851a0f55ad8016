"""The promises, on the real default model."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import product

import pytest
from fakes import policy

from edgespec.bundle import Bundle
from edgespec.chat.events import Answer, TextDelta
from edgespec.chat.session import Chat, Settings
from edgespec.chat.template import KNOWN_TEMPLATES
from edgespec.decoding.drafters.draft_model import DraftModelDrafter
from edgespec.decoding.drafters.ngram import NgramDrafter
from edgespec.decoding.exactness import splits_agree
from edgespec.decoding.protocols import Drafter
from edgespec.decoding.sampling import Sampling
from edgespec.engine import Resources, open_chat, open_model

CONTEXT = 2048
TOKENS = 128
PROMPTS = (
    "Why do leaves turn red in autumn?",
    "Write a Python function that reverses a list, and explain every line.",
    "List ten animals, one per line, each with its colour.",
    "Translate into French: The ship leaves the harbour at dawn and returns at night.",
    "Repeat this sentence three times: The quick brown fox jumps over the lazy dog.",
    "Tell me a story about a clockmaker and a crow.",
    "What is 17 + 26? Explain how you add them.",
    "Describe how to make pancakes, step by step.",
    "Give me a JSON object with the keys name, age and city.",
    "Explain what a glacier is to a ten-year-old.",
    "Which is heavier, a kilogram of iron or a kilogram of feathers, and why?",
    "Write a polite letter that declines an invitation to a wedding.",
)


@pytest.fixture(scope="module")
def chat(default_bundle: Bundle) -> Iterator[Chat]:
    chat = open_chat(default_bundle.name, resources=Resources(CONTEXT), offline=True)
    yield chat
    chat.close()


@pytest.fixture(scope="module")
def drafters(skip_bundle: Bundle) -> dict[str, Drafter]:
    draft = open_model(skip_bundle, Resources(CONTEXT))
    return {"ngram": NgramDrafter(), "layer skip": DraftModelDrafter(draft, "layer skip")}


def answer(chat: Chat, prompt: str, drafter: Drafter | None, settings: Settings) -> Answer:
    chat.use(policy(drafter), settings)
    chat.clear()
    *_, last = chat.send(prompt)
    assert isinstance(last, Answer)
    return last


@pytest.fixture(scope="module")
def plain(chat: Chat) -> dict[str, tuple[int, ...]]:
    """What the model says to each prompt in exact mode without any draft."""
    return {p: answer(chat, p, None, Settings(max_tokens=TOKENS)).tokens for p in PROMPTS}


def check(chat: Chat, plain: dict[str, tuple[int, ...]], prompt: str, drafter: Drafter, k: int) -> Answer:
    got = answer(chat, prompt, drafter, Settings(max_tokens=TOKENS, draft_max=k))
    assert got.tokens == plain[prompt]
    return got


def test_exact_mode_says_the_same_with_any_draft(
    chat: Chat, plain: dict[str, tuple[int, ...]], drafters: dict[str, Drafter]
) -> None:
    """Every prompt and drafter, k going round; every k for every prompt is the slow test."""
    accepted = {"ngram": 0, "layer skip": 0}
    for i, prompt in enumerate(PROMPTS):
        accepted["ngram"] += check(chat, plain, prompt, drafters["ngram"], 1 + i % 8).stats.accepted
        accepted["layer skip"] += check(chat, plain, prompt, drafters["layer skip"], 1 + i % 4).stats.accepted
    assert min(accepted.values()) > 0  # else nothing was tested


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ngram", "layer skip"])
def test_exact_mode_says_the_same_for_every_k(
    chat: Chat, plain: dict[str, tuple[int, ...]], drafters: dict[str, Drafter], name: str
) -> None:
    for prompt, k in product(PROMPTS, range(1, 9)):
        check(chat, plain, prompt, drafters[name], k)


@pytest.mark.slow
def test_exact_mode_says_the_same_with_one_thread(plain: dict[str, tuple[int, ...]], default_bundle: Bundle) -> None:
    for prompt in PROMPTS[:4]:
        command = [sys.executable, "-m", "edgespec", "run", default_bundle.name, prompt, "--json", "--threads", "1"]
        command += ["--max-tokens", str(TOKENS), "--draft-max", "5", "--ctx-size", str(CONTEXT)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, env=os.environ)
        assert tuple(json.loads(done.stdout)["tokens"]) == plain[prompt]


def test_splits_into_passes_agree(default_bundle: Bundle) -> None:
    assert splits_agree(open_model(default_bundle, Resources(256)))


def test_a_seeded_sample_is_the_same_with_a_chosen_draft(chat: Chat) -> None:
    settings = Settings(Sampling(temperature=0.8, top_p=0.95, seed=5), exact=True, max_tokens=64)
    expected = answer(chat, PROMPTS[5], None, settings).tokens
    assert answer(chat, PROMPTS[5], NgramDrafter(), settings).tokens == expected


def test_a_second_turn_equals_one_prefill_of_the_whole_conversation(chat: Chat) -> None:
    settings = Settings(max_tokens=48)
    answer(chat, PROMPTS[0], NgramDrafter(), settings)
    first = list(chat.messages)
    *_, second = chat.send("Now say it in one sentence.")
    assert isinstance(second, Answer)
    assert second.prompt_n < second.prompt_tokens
    chat.clear()
    chat.messages = first
    *_, again = chat.send("Now say it in one sentence.")
    assert isinstance(again, Answer)
    assert again.prompt_n == again.prompt_tokens - 1
    assert again.tokens == second.tokens


def test_rewinding_and_going_on_equals_a_fresh_run(default_bundle: Bundle) -> None:
    model = open_model(default_bundle, Resources(128))
    ids = [(i * 997 + 3) % model.vocab_size for i in range(40)]
    whole = model.forward(ids).copy()
    for length in range(0, len(ids) - 1, 3):
        model.rewind(length)
        model.forward([5, 6, 7])
        model.rewind(length)
        assert (model.forward(ids[length:]) == whole[length:]).all()


def test_a_stopped_answer_keeps_its_text_and_the_next_turn_goes_on(chat: Chat) -> None:
    chat.use(policy(NgramDrafter()), Settings(max_tokens=TOKENS))
    chat.clear()
    said = ""
    for event in chat.send(PROMPTS[5]):
        if isinstance(event, TextDelta):
            said += event.text
            if len(said) > 40:
                chat.stop()
    assert chat.messages[-1].content == said
    *_, last = chat.send("Go on.")
    assert isinstance(last, Answer)
    assert last.text


def test_the_quality_of_the_conversion_is_what_was_promised(default_bundle: Bundle) -> None:
    quality = default_bundle.manifest.quality
    assert quality is not None
    assert quality.mean_kl <= 0.01
    assert quality.top1_agreement >= 0.97


def test_the_default_template_needs_no_process_of_its_own(default_bundle: Bundle) -> None:
    assert default_bundle.chat_template is not None
    assert hashlib.sha256(default_bundle.chat_template.encode()).hexdigest() in KNOWN_TEMPLATES


RESIDENT = """
import sys
from edgespec.bundle import default_store
from edgespec.engine import Resources, open_model
from edgespec.runtime import session

if sys.argv[2] == "keep":
    session._libc = None
model = open_model(default_store().open(sys.argv[1]), Resources(256))
resident, inside = 0, False
with open("/proc/self/smaps") as maps:
    for line in maps:
        if "-" in line.split()[0]:
            inside = line.rstrip().endswith("/model.onnx.data")
        elif inside and line.startswith("Rss:"):
            resident += int(line.split()[1])
print(resident)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be told")
def test_weights_are_not_resident_packed_and_mapped(default_bundle: Bundle) -> None:
    def resident(how: str) -> int:
        """kB of the weight file."""
        command = [sys.executable, "-c", RESIDENT, default_bundle.name, how]
        return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    assert resident("let go") < resident("keep") - 10_000
