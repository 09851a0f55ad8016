"""Which graph of a foreign folder is taken, and every reason to take none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from edgespec.bundle.foreign import ForeignBundle, is_foreign, open_foreign
from edgespec.errors import ModelError

TOKENIZER = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2, "content": "</s>"}]}
CONFIG = {"max_position_embeddings": 64, "eos_token_id": 2, "head_dim": 8}
GENAI: dict[str, Any] = {
    "context_length": 32,
    "eos_token_id": [2, 1],
    "decoder": {"filename": "text.onnx", "head_size": 16},
}


def fill(folder: Path, *graphs: str, config: Any = CONFIG, genai: Any = None) -> Path:
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    for name, value in {"tokenizer": TOKENIZER, "config": config, "genai_config": genai}.items():
        if value is not None:
            (folder / f"{name}.json").write_text(json.dumps(value))
    for graph in graphs:
        (folder / graph).write_bytes(b"graph")
    return folder


ALL = ("", "_q4", "_q4f16", "_fp16", "_int8", "_uint8", "_quantized", "_q8")


@pytest.mark.parametrize(
    ("device", "names", "best"),
    [
        ("cpu", ALL, "_q4"),
        ("cpu", tuple(n for n in ALL if n != "_q4"), ""),
        ("cpu", ("_int8", "_fp16"), "_int8"),
        ("cpu", ("_fp16", "_q4f16"), "_q4f16"),
        ("cuda", ALL, "_q4f16"),
        ("cuda", ("", "_fp16", "_q4"), "_fp16"),
        ("cuda", ("", "_int8"), ""),
    ],
)
@pytest.mark.parametrize("place", ["onnx/", ""])
def test_the_best_file_for_the_device_is_taken(
    device: Literal["cpu", "cuda"], names: tuple[str, ...], best: str, place: str, tmp_path: Path
) -> None:
    folder = fill(tmp_path, *(f"{place}model{name}.onnx" for name in names))
    assert open_foreign(folder, device).graph == folder / f"{place}model{best}.onnx"


def test_what_the_folder_says_is_read(tmp_path: Path) -> None:
    made = open_foreign(fill(tmp_path / "m", "model.onnx"), "cpu")
    assert (made.name, made.context_length, made.vocab_size, made.eos_ids, made.head_size) == ("m", 64, 3, (2,), 8)
    assert made.chat_template is None
    again = open_foreign(fill(tmp_path / "again", "model.onnx"), "cpu")
    assert made.tokenizer_sha256 == again.tokenizer_sha256


def test_genai_config_goes_before_config(tmp_path: Path) -> None:
    made = open_foreign(fill(tmp_path, "text.onnx", "model.onnx", genai={"model": GENAI}), "cpu")
    assert made.graph.name == "text.onnx"
    assert (made.context_length, set(made.eos_ids), made.head_size) == (32, {1, 2}, 16)


def test_a_bundle_of_ours_is_not_foreign(tmp_path: Path) -> None:
    fill(tmp_path, "model.onnx")
    assert is_foreign(tmp_path)
    assert is_foreign(tmp_path / "model.onnx")
    (tmp_path / "edgespec.json").touch()
    assert not is_foreign(tmp_path)
    assert not is_foreign(tmp_path / "nowhere")


Change = Callable[[Path], object]


def genai(**model: Any) -> Change:
    return lambda folder: fill(folder, genai={"model": {**GENAI, **model}})


def linked(name: str) -> Change:
    def change(folder: Path) -> None:
        target = (folder / name).rename(folder / "elsewhere")
        (folder / name).symlink_to(target)

    return change


def only(*graphs: str) -> Change:
    def change(folder: Path) -> None:
        (folder / "model.onnx").unlink()
        fill(folder, *graphs)

    return change


def config(**values: Any) -> Change:
    return lambda folder: fill(folder, config=values)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (only(), "holds no model: neither edgespec.json nor genai_config.json nor model.onnx is in it"),
        (only("model.safetensors"), r"holds weights but no graph; `edgespec pull .*` converts them"),
        (only("onnx/encoder_model.onnx", "onnx/decoder_model.onnx"), "it is an encoder-decoder model"),
        (only("onnx/decoder_model_merged.onnx"), "has a branch of its own for the first pass"),
        (only("onnx/net.onnx"), "has no model.onnx; name one of its files instead: net.onnx"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json; save the model's fast tokenizer"),
        (config(is_encoder_decoder=True), "it is an encoder-decoder model; choose one that only decodes"),
        (config(eos_token_id=2), "nothing in .* says how long the model's context is"),
        (config(max_position_embeddings=64), "which token ends an answer"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is not JSON"),
        (linked("model.onnx"), r"model\.onnx is a link, not a plain file; copy the whole folder"),
        (linked("tokenizer.json"), r"tokenizer\.json is a link"),
        (linked("onnx"), r"onnx is a link, not a plain folder"),
        (lambda folder: (folder / "other").hardlink_to(folder / "config.json"), r"config\.json is hard-linked"),
        (genai(), r"text\.onnx is missing from"),
        (genai(decoder={"filename": "../canary.onnx"}), "names a graph outside its folder"),
        (genai(decoder={"filename": "/canary.onnx"}), "names a graph outside its folder"),
        (genai(decoder={"pipeline": [], "filename": "model.onnx"}), "names no graph that is a whole decoder"),
        (genai(decoder=[]), "names no graph that is a whole decoder"),
        (genai(encoder={}), "beside its decoder it has a part for encoder"),
        (genai(vision={}), "beside its decoder it has a part for vision"),
        (lambda folder: fill(folder, genai={"model": 1}), "describes no model"),
    ],
)
def test_every_reason_to_refuse_a_folder(change: Change, reason: str, tmp_path: Path) -> None:
    folder = fill(tmp_path / "m", "model.onnx")
    if reason.startswith("onnx is a link"):
        (folder / "model.onnx").rename(folder / "onnx" / "model.onnx")
    change(folder)
    with pytest.raises(ModelError, match=reason):
        open_foreign(folder, "cpu")


def bundle(folder: Path) -> ForeignBundle:
    return open_foreign(fill(folder, "onnx/model_q4.onnx", "onnx/model_q4.onnx_data"), "cpu")


def test_weights_beside_the_graph_are_fine(tmp_path: Path) -> None:
    made = bundle(tmp_path)
    made.require_plain(["model_q4.onnx_data"])
    (tmp_path / "onnx" / "parts").mkdir()
    fill(tmp_path, "onnx/parts/1")
    made.require_plain(["parts/1", "./model_q4.onnx_data"])


@pytest.mark.parametrize("name", ["", "..", "../tokenizer.json", "/etc/hostname", "a/../../b", "..\\b", "a\\b"])
def test_weights_elsewhere_are_not(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="keeps weights outside its folder"):
        bundle(tmp_path).require_plain([name])


def test_links_to_weights_are_refused(tmp_path: Path) -> None:
    made = bundle(tmp_path)
    (tmp_path / "secret").mkdir()
    fill(tmp_path, "secret/canary")
    (tmp_path / "onnx" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match=r"link is a link, not a plain folder"):
        made.require_plain(["link/canary"])
    with pytest.raises(ModelError, match=r"secret2 is missing from"):
        made.require_plain(["secret2"])
