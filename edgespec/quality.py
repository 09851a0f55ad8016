"""How much a quantized graph lost: its next-token distributions against the float32 weights', on its own text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
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
)
TOKENS_PER_ANSWER = 96
_CONTEXT = 512


def measure(
    quantized: Path, reference: Path, eos_ids: Collection[int], progress: Callable[[str, float], None]
) -> Quality:
    """Let the quantized model answer a few questions, then compare the two graphs on every token of the answers.

    Mean KL divergence D(reference || quantized) of the next-token distributions, in nats, and the share of positions
    at which both find the same token most likely. Both are directories that `convert_gguf` wrote. The text is sampled
    with fixed seeds, so the figures repeat on one machine.
    """
    tokenizer = Tokenizer.load(quantized / "tokenizer.json")
    texts = _write(quantized, tokenizer, eos_ids, lambda done: progress("measuring quality", done * 0.7))
    ours = _logits(quantized, tokenizer, texts, lambda done: progress("measuring quality", 0.7 + done * 0.1))
    theirs = _logits(reference, tokenizer, texts, lambda done: progress("measuring quality", 0.8 + done * 0.2))
    divergence, same, count = 0.0, 0, 0
    for a, b in zip(theirs, ours, strict=True):
        log_p, log_q = _log_softmax(a), _log_softmax(b)
        divergence += float((np.exp(log_p) * (log_p - log_q)).sum())
        same += int((a.argmax(axis=1) == b.argmax(axis=1)).sum())
        count += len(a)
    return Quality(mean_kl=divergence / count, top1_agreement=same / count, tokens=count)


def _open(directory: Path, tokenizer: Tokenizer) -> OnnxCausalLM:
    return OnnxCausalLM.open(directory / "model.onnx", context_length=_CONTEXT, vocab_size=tokenizer.vocab_size)


def _write(
    directory: Path, tokenizer: Tokenizer, eos_ids: Collection[int], progress: Callable[[float], None]
) -> list[tuple[list[int], int]]:
    """The ids of each question and its answer, and how many of them are the question's."""
    template_path = directory / "chat_template.jinja"
    source = template_path.read_text(encoding="utf-8") if template_path.is_file() else None
    template = ChatTemplate(source, tokenizer)
    model = _open(directory, tokenizer)
    texts: list[tuple[list[int], int]] = []
    for seed, question in enumerate(QUESTIONS):
        ids = template.render_ids([Message("user", question)])
        prompt = len(ids)
        model.rewind(0)
        for _ in prefill(model, ids, exact=False):
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
        texts.append((ids, prompt))
        progress(len(texts) / len(QUESTIONS))
    return texts


def _logits(
    directory: Path, tokenizer: Tokenizer, texts: Sequence[tuple[list[int], int]], progress: Callable[[float], None]
) -> list[Logits]:
    """For each text, the logits from which the answer's tokens were drawn, float32 [answer, vocab]."""
    model = _open(directory, tokenizer)
    found: list[Logits] = []
    for ids, prompt in texts:
        model.rewind(0)
        chunks = [
            model.forward(ids[i : min(i + PREFILL_CHUNK, len(ids) - 1)]).copy()
            for i in range(0, len(ids) - 1, PREFILL_CHUNK)
        ]
        found.append(np.concatenate(chunks)[prompt - 1 :])
        progress(len(found) / len(texts))
    return found


def _log_softmax(logits: Logits) -> Logits:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
