"""How much a quantized graph lost: its next-token distributions against the weights' in float32, on its own text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from edgespec.bundle import Quality
from edgespec.chat.conversation import Message
from edgespec.chat.template import ChatTemplate
from edgespec.chat.tokenizer import Tokenizer
from edgespec.decoding.passes import PREFILL_CHUNK, prefill
from edgespec.decoding.protocols import Logits
from edgespec.decoding.rounds import generate
from edgespec.decoding.sampling import Sampler, Sampling
from edgespec.runtime.model import OnnxCausalLM

QUESTIONS = (
    "Explain to a child why the moon changes its shape.",
    "Write a short Python function that counts the vowels in a string.",
    "What should I pack for three days of hiking in the mountains?",
    "Translate into French: The train leaves at seven, so please be early.",
    "A farmer has 17 sheep, buys 8 more and sells 5. How many are left? Show the steps.",
    "Summarize the causes of the First World War in four sentences.",
    "Write the opening of a story about a lighthouse keeper who finds a letter.",
    "What is the difference between a virus and a bacterium?",
    "Give me a recipe for tomato soup for two people.",
    "List the advantages of learning a second language.",
    "How does a bicycle stay upright while it moves?",
    "Write a short poem about rain on a tin roof.",
    "Explain the difference between a list and a tuple in Python.",
    "My plant has yellow leaves. What could be wrong with it?",
    "Describe a day in a medieval market town.",
    "Rewrite this politely: Send me the report now.",
)
Text = tuple[Sequence[int], int]
"""The ids of a question and its answer, and how many of them are the question's."""

Reference = Callable[[Sequence[Text], int, Callable[[float], None]], Iterator[Logits]]
"""Says what the weights mean: for each text, the logits that each token of the answer was taken from, [tokens of the
answer, vocabulary of that size]; hears of progress, 0 to 1."""

TOKENS_PER_ANSWER = 96
_CONTEXT = 512
_STAGE = "Measuring the quality"


def measure(
    quantized: Path,
    reference: Reference,
    vocab_size: int,
    eos_ids: Collection[int],
    progress: Callable[[str, float], None],
) -> Quality:
    """Let the quantized model answer a few questions, then compare it with the reference on every token of the answers.

    Mean KL divergence D(reference || quantized) of the next-token distributions, in nats, and the share of positions
    at which both find the same token most likely. `quantized` is a directory that a conversion wrote; `vocab_size`
    counts the tokens that tokenizer and model share. The text is sampled with fixed seeds, so the figures repeat on
    one machine.
    """
    tokenizer = Tokenizer.load(quantized / "tokenizer.json")
    ours = _open(quantized, vocab_size)
    texts: list[Text] = []
    for text in _write(ours, quantized, tokenizer, eos_ids):
        texts.append(text)
        progress(_STAGE, 0.4 * len(texts) / len(QUESTIONS))
    divergence, same, count = 0.0, 0, 0
    theirs = reference(texts, vocab_size, lambda done: progress(_STAGE, 0.4 + 0.5 * done))
    for i, (p, (ids, prompt)) in enumerate(zip(theirs, texts, strict=True)):
        q = _logits(ours, ids)[prompt - 1 :]
        log_p, log_q = _log_softmax(p), _log_softmax(q)
        divergence += float((np.exp(log_p) * (log_p - log_q)).sum())
        same += int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
        count += len(p)
        progress(_STAGE, 0.9 + 0.1 * (i + 1) / len(texts))
    return Quality(mean_kl=divergence / count, top1_agreement=same / count, tokens=count)


def graph_logits(
    directory: Path, texts: Sequence[Text], vocab_size: int, progress: Callable[[float], None]
) -> Iterator[Logits]:
    """A `Reference` that is a graph: one in float32, in a directory that a conversion wrote."""
    model = _open(directory, vocab_size)
    for done, (ids, prompt) in enumerate(texts, 1):
        yield _logits(model, ids)[prompt - 1 :]
        progress(done / len(texts))


def _open(directory: Path, vocab_size: int) -> OnnxCausalLM:
    return OnnxCausalLM.open(directory / "model.onnx", context_length=_CONTEXT, vocab_size=vocab_size)


def _write(
    model: OnnxCausalLM, directory: Path, tokenizer: Tokenizer, eos_ids: Collection[int]
) -> Iterator[tuple[list[int], int]]:
    """The ids of each question and its answer, and how many of them are the question's."""
    path = directory / "chat_template.jinja"
    template = ChatTemplate.load(path if path.is_file() else None, tokenizer)
    for seed, question in enumerate(QUESTIONS):
        ids = template.render_ids([Message("user", question)])
        prompt = len(ids)
        model.rewind(0)
        for _ in prefill(model, ids):
            pass
        for _ in generate(
            model,
            ids,
            None,
            k=1,
            sampler=Sampler(Sampling(temperature=0.7, seed=seed)),
            max_tokens=TOKENS_PER_ANSWER,
            ends=lambda token: token in eos_ids,
            exact=False,
        ):
            pass
        yield ids, prompt


def _logits(model: OnnxCausalLM, ids: Sequence[int]) -> Logits:
    """The logits that follow each of `ids` but the last, float32 [len(ids) - 1, vocab]."""
    model.rewind(0)
    ends = [*range(PREFILL_CHUNK, len(ids) - 1, PREFILL_CHUNK), len(ids) - 1]
    return np.concatenate([model.forward(ids[model.length : end]).copy() for end in ends])


def _log_softmax(logits: Logits) -> Logits:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
