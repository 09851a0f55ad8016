"""`python -m export`: one model and a pair, dry and real, from a folder and from the Hub, with every check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints import SIZES, write_json, write_texts
from fake_hub import FakeHub

from edgespec.bundle import Quality, Store
from edgespec.chat.session import Settings
from edgespec.cli.main import run
from edgespec.engine import open_chat

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
pytest.importorskip("optimum.exporters.onnx")

from export.__main__ import main  # noqa: E402

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny, Small (one layer, the same tokens), Other (other tokens), Neo (no graph of edgespec's own)."""
    root = tmp_path_factory.mktemp("checkpoints")
    for name, family, settings in [
        ("Tiny", "Llama", {}),
        ("Small", "Llama", {"num_hidden_layers": 1}),
        ("Other", "Llama", {"num_hidden_layers": 1}),
        ("Neo", "GPTNeoX", {"num_hidden_layers": 1}),
    ]:
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**{**SIZES, "max_position_embeddings": 512, **settings})
        getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(root / name)
        write_texts(root / name)
    tokenizer = json.loads((root / "Other" / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": 304, "content": "<|other|>"})
    write_json(root / "Other" / "tokenizer.json", tokenizer)
    return root


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("EDGESPEC_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("edgespec.quality.measure", lambda *_: Quality(0.005, 0.98, 1000))
    return Store(tmp_path / "home" / "models")


def export(*args: str) -> int:
    return run(args, main, "python -m export")


def facts(capsys: Capture) -> dict[str, str]:
    return {line[:14].strip(): line[14:] for line in capsys.readouterr().out.splitlines()}


def test_a_folder(store: Store, folders: Path, capsys: Capture) -> None:
    assert export("hf", str(folders / "Tiny")) == 0
    shown = facts(capsys)
    assert shown["name"] == "tiny"
    assert shown["weights"].startswith("int8")
    assert shown["quality"] == "mean KL 0.0050, top-1 agreement 98.0% over 1000 tokens"
    checks = store.verify("tiny").manifest.checks
    assert checks is not None
    assert checks.parity is not None
    assert 0 < checks.parity < 1e-3
    assert checks.memory > 1e6
    assert len(checks.pass_ms) == 9
    assert min(checks.pass_ms) > 0
    assert shown["parity"] == f"within {checks.parity:.1e} of transformers' logits"


def test_a_family_that_only_optimum_knows(store: Store, folders: Path, capsys: Capture) -> None:
    assert export("hf", str(folders / "Neo"), "--name", "mine") == 0
    shown = facts(capsys)
    assert "Optimum" in shown["weights"]
    checks = store.verify("mine").manifest.checks
    assert checks is not None
    assert checks.parity is not None
    assert checks.parity < 1e-3


@pytest.mark.parametrize(("folder", "graph"), [("Tiny", "edgespec's own"), ("Neo", "Optimum's: .*gpt_neox")])
def test_a_dry_run_writes_nothing(store: Store, folders: Path, capsys: Capture, folder: str, graph: str) -> None:
    before = sorted(folders.rglob("*"))
    assert export("hf", str(folders / folder), "--dry-run") == 0
    shown = facts(capsys)
    assert shown["name"] == folder.lower()
    assert shown["to fetch"] == "0.0 MB"
    assert shown["stages"].startswith("convert")
    assert pytest.approx(float(shown["size"].split()[1]), abs=0.1) == 0.2
    import re

    assert re.match(graph, shown["graph"])
    assert not store.root.exists()
    assert sorted(folders.rglob("*")) == before


def test_a_pair(store: Store, folders: Path, capsys: Capture) -> None:
    assert export("pair", str(folders / "Tiny"), str(folders / "Small")) == 0
    assert "both have the same 304 tokens" in capsys.readouterr().err
    assert store.names() == ("small", "tiny")
    assert store.open("tiny").manifest.draft == "small"
    assert open_chat("tiny", settings=Settings(max_tokens=4)).draft == "small"


def test_a_draft_with_other_tokens_is_refused_first(store: Store, folders: Path, capsys: Capture) -> None:
    assert export("pair", str(folders / "Tiny"), str(folders / "Other")) == 3
    assert "cannot draft for" in capsys.readouterr().err
    assert not store.root.exists()


def test_logits_that_are_not_the_models(
    store: Store, folders: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.exporting.parity", lambda *_: 3.5)
    assert export("hf", str(folders / "Tiny")) == 3
    assert "its logits are up to 3.5 away from transformers'" in capsys.readouterr().err
    assert store.names() == ()
    assert export("hf", str(folders / "Tiny"), "--force") == 0
    checks = store.open("tiny").manifest.checks
    assert checks is not None
    assert checks.parity == 3.5


def test_from_the_hub(store: Store, folders: Path, loopback_hub: FakeHub, capsys: Capture) -> None:
    files = {path.name: path.read_bytes() for path in (folders / "Tiny").iterdir()}
    loopback_hub.repositories["Some/Tiny"] = {**files, "pytorch_model.bin": b"a pickle"}
    assert export("hf", "Some/Tiny", "--dry-run") == 0
    size = sum(len(content) for content in files.values())
    assert facts(capsys)["to fetch"] == f"{size / 1e6:.1f} MB"
    assert not any("safetensors" in path for path, _, _ in loopback_hub.requests)
    assert not store.root.exists()
    assert export("hf", "Some/Tiny") == 0
    manifest = store.verify("tiny").manifest
    assert manifest.source.revision == loopback_hub.commit("Some/Tiny")
    assert manifest.checks is not None
    assert export("hf", "Some/Tiny", "--dry-run") == 0


def test_what_is_no_checkpoint(store: Store, capsys: Capture) -> None:
    assert export("hf", "smollm2-135m") == 2
    assert "edgespec pull smollm2-135m" in capsys.readouterr().err
    assert export("hf", "./nowhere") == 3
