"""A head is trained on what its target writes; broken off, it goes on; and what comes out drafts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import write_tiny_gguf

import edgespec
from edgespec.bundle import Store
from edgespec.chat.events import Answer
from edgespec.chat.session import Settings
from edgespec.errors import ModelError
from edgespec.graph import convert_gguf
from edgespec.making import Tools
from edgespec.pull import pull
from edgespec.runtime.model import OnnxCausalLM

torch: Any = pytest.importorskip("torch")

from export import draft_data, train_draft  # noqa: E402
from export.conversations import ANSWER, TEMPLATE, USER  # noqa: E402
from export.head import Trained, train_head  # noqa: E402
from export.soft_loss import soft_loss  # noqa: E402
from export.torch_llama import TorchLlama  # noqa: E402
from export.train_draft import Recipe  # noqa: E402

RECIPE = Recipe(tokens=3 * 32 * 120, words=128, unrolled=3, window=24, epochs=3, sequences=8, rate=3e-3)


class KilledError(Exception):
    """Stands for whatever ends a program."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store with a tiny target, and small waves."""
    monkeypatch.setenv("EDGESPEC_HOME", str(tmp_path))
    monkeypatch.setattr(draft_data, "_SHORT", (32, 120))
    monkeypatch.setattr(draft_data, "_LONG", (32, 120))
    monkeypatch.setattr(train_draft, "_EVERY", 5)
    store = Store(tmp_path / "models")
    pull(str(write_tiny_gguf(tmp_path / "tiny.gguf", layers=8)), store, tools=Tools(force=True))
    return store


def train(store: Store, *, until: tuple[str, float] | None = None, name: str = "head") -> Trained:
    """`until`: the stage and the share of it at which to die."""

    def progress(stage: str, done: float) -> None:
        if until is not None and stage == until[0] and done >= until[1]:
            raise KilledError

    return train_head("tiny", store, RECIPE, name=name, device="cpu", threads=1, progress=progress)


def test_broken_off_in_any_stage_it_ends_as_if_it_had_not_been(home: Store) -> None:
    for stage, share in (("Writing conversations", 0.5), ("Training", 0.4), ("Training", 0.8)):
        with pytest.raises(KilledError):
            train(home, until=(stage, share))
        assert home.names() == ("tiny",)
    resumed = train(home)
    weights = (resumed.work / "head" / "model.safetensors").read_bytes()
    (resumed.work / "training.pt").unlink()
    whole = train(home, name="other")
    assert (whole.work / "head" / "model.safetensors").read_bytes() == weights
    assert [p.tokens for p in resumed.points] == [p.tokens for p in whole.points]
    assert resumed.points[-1].loss < resumed.points[0].loss - 0.2
    assert all(0.0 <= share <= 1.0 for share in resumed.points[-1].acceptance)
    card = (home.root / "head" / "README.md").read_text()
    assert "python -m export head tiny" in card
    assert (home.root / "head" / "training.svg").stat().st_size > 1000


def test_what_was_trained_drafts(home: Store) -> None:
    trained = train(home)
    assert home.verify("head").manifest.head is not None
    settings = Settings(max_tokens=30)
    plain = edgespec.open_chat("tiny", draft="none", settings=settings)
    drafted = edgespec.open_chat("tiny", draft="head", settings=settings)
    question = "and what is in the other one"
    expected, answer = (list(chat.send(question))[-1] for chat in (plain, drafted))
    assert isinstance(expected, Answer)
    assert isinstance(answer, Answer)
    assert answer.tokens == expected.tokens  # exact mode
    assert drafted.draft == trained.bundle.name
    with pytest.raises(ModelError, match="edgespec run tiny --draft head"):
        edgespec.open_chat("head")


def test_a_wave_is_the_templates_and_the_targets_words(home: Store) -> None:
    train(home, name="head")
    path = home.root / ".training-tiny" / "waves" / "wave-0000.safetensors"
    batch = draft_data.read_batch(path, 0, 8)
    model = TorchLlama(home.root.parent / "tiny.gguf")
    assert {TEMPLATE, USER, ANSWER} == set(batch.roles.unique().tolist())
    assert int(batch.tokens[:, 0].unique()) == 1  # <|im_start|>
    # What was kept of each position is what one pass over the text makes of it.
    first = 4
    ends = np.flatnonzero(batch.starts[first] > 0)
    end = int(ends[0]) if len(ends) else 120
    cache = model.new_cache(1, end)
    with torch.inference_mode():
        x, taps = model.forward(batch.tokens[first : first + 1, :end], cache, 0, None, model.config.taps)
        likeliest = model.logits(x)[0].argmax(dim=-1)
    kept = batch.taps[first, :end].float()
    assert (torch.cat(taps, dim=-1)[0].float() - kept).square().mean() < 1e-3 * kept.var()
    assert (likeliest == batch.top_ids[first, :end, 0]).float().mean() > 0.9


def test_the_targets_arithmetic_is_the_graphs(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", layers=8)
    convert_gguf(source, tmp_path, weights="float32")
    graph = OnnxCausalLM.open(tmp_path / "model.onnx", context_length=64, vocab_size=304)
    model, text = TorchLlama(source, dtype=torch.float32), [(i * 37 + 5) % 304 for i in range(50)]
    with torch.inference_mode():
        x, taps = model.forward(torch.tensor([text]), model.new_cache(1, 50), 0, None, model.config.taps)
        logits = model.logits(x)[0].numpy()
    np.testing.assert_allclose(graph.forward(text), logits, atol=1e-3)
    np.testing.assert_allclose(
        graph.hidden_states(0, 50).read(), torch.cat(taps, dim=-1)[0].numpy(), atol=1e-3, rtol=1e-4
    )


def test_the_loss_and_its_slopes_are_those_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1100, 16, generator=generator, requires_grad=True)
    weight = torch.randn(40, 16, generator=generator, requires_grad=True)
    ids = torch.stack([torch.randperm(40, generator=generator)[:5] for _ in range(1100)])
    p = torch.rand(1100, 5, generator=generator) * 0.2
    mine = soft_loss(x, weight, ids, p)
    mine.backward()
    found = x.grad, weight.grad
    x.grad = weight.grad = None
    expected = -(p * torch.log_softmax(x @ weight.T, dim=-1).gather(1, ids)).sum()
    expected.backward()
    torch.testing.assert_close(mine, expected)
    torch.testing.assert_close(found, (x.grad, weight.grad), atol=1e-4, rtol=1e-3)


def test_a_model_of_few_layers_can_have_no_head(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="seven layers and more"):
        TorchLlama(write_tiny_gguf(tmp_path / "tiny.gguf", layers=4))
