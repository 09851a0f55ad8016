"""The manifest is read back as it was written, and anything else is refused."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_bundles import FILES, describe

from edgespec.bundle import Bundle, Checks, HeadRecord, TableRecord
from edgespec.bundle.manifest import format_layers, read_manifest
from edgespec.errors import ModelError

Make = Callable[..., Bundle]


def edit(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> Path:
    path = bundle.directory / "edgespec.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    return bundle.directory


def test_read_back_as_written(make_bundle: Make) -> None:
    bundle = make_bundle()
    assert read_manifest(bundle.directory) == bundle.manifest
    without = replace(bundle.manifest, quality=None, license=None)
    without.write(bundle.directory)
    assert read_manifest(bundle.directory) == without
    checked = replace(bundle.manifest, checks=Checks(1e-4, 10**9, (7.5, 8.25)), draft="small")
    checked.write(bundle.directory)
    assert read_manifest(bundle.directory) == checked


def test_unknown_format_is_refused(make_bundle: Make) -> None:
    with pytest.raises(ModelError, match="format is 5"):
        read_manifest(edit(make_bundle(), lambda value: value.update(format=5)))


@pytest.mark.parametrize(
    ("version", "lacks"), [(1, ("checks", "draft", "head", "table")), (2, ("head", "table")), (3, ("table",))]
)
def test_the_formats_before_are_read(make_bundle: Make, version: int, lacks: tuple[str, ...]) -> None:
    bundle = make_bundle()

    def age(value: dict[str, Any]) -> None:
        value["format"] = version
        for key in lacks:
            del value[key]

    assert read_manifest(edit(bundle, age)) == bundle.manifest
    with pytest.raises(ModelError, match=f"unknown key '{lacks[-1]}'"):
        read_manifest(edit(bundle, lambda value: value.update({lacks[-1]: None})))


def test_a_head_has_its_targets_tokens(make_bundle: Make) -> None:
    def behead(value: dict[str, Any]) -> None:
        del value["files"]["tokenizer.json"]

    bundle = make_bundle()
    record = HeadRecord("tiny", "a" * 64, 96, 256)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        read_manifest(edit(bundle, behead))
    read = read_manifest(edit(bundle, lambda value: value.update(head=asdict(record))))
    assert read.head == record
    assert read.tokenizer_sha256 == "a" * 64


def test_a_table_has_its_targets_tokens(make_bundle: Make) -> None:
    record = asdict(TableRecord("tiny", "b" * 64))

    def make_table(value: dict[str, Any]) -> None:
        del value["files"]["tokenizer.json"]
        value["table"] = record

    read = read_manifest(edit(make_bundle(), make_table))
    assert read.made_for == read.table == TableRecord("tiny", "b" * 64)
    assert read.tokenizer_sha256 == "b" * 64
    for key, value in (("tokenizer_sha256", "short"), ("target", 3), ("more", 1)):
        with pytest.raises(ModelError, match=key):
            read_manifest(edit(make_bundle(), lambda v, k=key, new=value: v.update(table=record | {k: new})))


@pytest.mark.parametrize(
    ("key", "value"), [("window", 0), ("hidden_size", 0), ("tokenizer_sha256", "short"), ("target", None), ("more", 1)]
)
def test_a_head_that_is_none_is_refused(make_bundle: Make, key: str, value: object) -> None:
    record = asdict(HeadRecord("tiny", "a" * 64, 96, None)) | {key: value}
    with pytest.raises(ModelError, match=key):
        read_manifest(edit(make_bundle(), lambda manifest: manifest.update(head=record)))


@pytest.mark.parametrize("key", ["name", "source", "files", "eos_ids", "quality", "license"])
def test_a_missing_key_is_refused(make_bundle: Make, key: str) -> None:
    with pytest.raises(ModelError, match=f"lacks '{key}'"):
        read_manifest(edit(make_bundle(), lambda value: value.pop(key)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", True),
        ("name", "../tiny"),
        ("name", 3),
        ("source", []),
        ("source", {"kind": "pickle", "reference": "x", "revision": None, "sha256": "0" * 64}),
        ("license", 1),
        ("context_length", "256"),
        ("context_length", 0),
        ("context_length", 1.5),
        ("vocab_size", -1),
        ("vocab_size", True),
        ("eos_ids", [1, "2"]),
        ("eos_ids", {"0": 1}),
        ("layers", [-1]),
        ("graph", "other.onnx"),
        ("quality", {"mean_kl": float("nan"), "top1_agreement": 0.9, "tokens": 1}),
        ("quality", {"mean_kl": 0.1, "top1_agreement": 0.9}),
        ("checks", {"parity": "1", "memory": 1, "pass_ms": [1.0]}),
        ("checks", {"parity": None, "memory": 1, "pass_ms": [1]}),
        ("checks", {"parity": None, "memory": -1, "pass_ms": []}),
        ("checks", {"parity": None, "memory": 1}),
        ("draft", 3),
        ("extra", 1),
    ],
)
def test_a_wrong_value_is_refused(make_bundle: Make, key: str, value: object) -> None:
    with pytest.raises(ModelError, match="not a manifest this version can use"):
        read_manifest(edit(make_bundle(), lambda manifest: manifest.update({key: value})))


@pytest.mark.parametrize(
    "name", ["../canary", "/etc/hostname", "sub/model.onnx", "..", ".", "", "edgespec.json", "a\\b", "a\nb", "a\0b"]
)
def test_a_name_that_leaves_the_directory_is_refused(make_bundle: Make, name: str) -> None:
    bundle = make_bundle()
    (bundle.directory.parent / "canary").write_text("secret")
    record = {"size": 6, "sha256": "0" * 64}
    with pytest.raises(ModelError, match="no plain file name"):
        read_manifest(edit(bundle, lambda value: value["files"].update({name: record})))


@pytest.mark.parametrize("record", [{"size": -1, "sha256": "0" * 64}, {"size": 1, "sha256": "0" * 63}, {"size": 1}, 7])
def test_a_wrong_file_record_is_refused(make_bundle: Make, record: object) -> None:
    with pytest.raises(ModelError):
        read_manifest(edit(make_bundle(), lambda value: value["files"].update({"model.onnx": record})))


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{", b"null", b"\xff\xfe", b'{"format": 1, "format": 1}', b"[" * 100_000, b" " * (1 << 20) + b"{}"],
    ids=["empty", "list", "cut", "null", "bytes", "twice", "deep", "large"],
)
def test_what_is_no_manifest_is_refused(make_bundle: Make, text: bytes) -> None:
    directory = make_bundle().directory
    (directory / "edgespec.json").write_bytes(text)
    with pytest.raises(ModelError):
        read_manifest(directory)


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "link", "hard link"])
def test_a_manifest_that_is_no_plain_file_is_refused(make_bundle: Make, tmp_path: Path, kind: str) -> None:
    directory = make_bundle().directory
    path, other = directory / "edgespec.json", tmp_path / "other.json"
    path.rename(other)
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(other)
    elif kind == "hard link":
        path.hardlink_to(other)
    with pytest.raises(ModelError, match="holds no model"):
        read_manifest(directory)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(data=st.data(), value=json_values)
def test_any_value_anywhere_is_read_or_refused_but_never_crashes(
    tmp_path: Path, data: st.DataObject, value: object
) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    plain = describe("tiny", tmp_path, tuple(FILES)).to_json()
    holder = data.draw(st.sampled_from([plain, plain["source"], plain["files"], plain["quality"]]))
    holder[data.draw(st.sampled_from(sorted(holder)))] = value
    (tmp_path / "edgespec.json").write_text(json.dumps(plain))
    with contextlib.suppress(ModelError):
        read_manifest(tmp_path)


def test_the_command_that_makes_it_again(make_bundle: Make) -> None:
    manifest = make_bundle().manifest
    source = replace(manifest.source, reference="/my models/tiny.gguf")
    named = replace(manifest, source=source)
    assert named.pull_command == "edgespec pull '/my models/tiny.gguf' --weights int8 --name tiny"
    exported = replace(named, recipe="mixed: int4 in some", checks=Checks(None, 1, (1.0,)))
    assert exported.pull_command == "python -m export hf '/my models/tiny.gguf' --weights mixed --name tiny"
    catalogued = replace(manifest, source=replace(source, kind="wheel", reference="tiny"))
    assert catalogued.pull_command == "edgespec pull tiny"
    draft = replace(catalogued, quality=None, layers=(0, 1, 5), name="d")
    assert draft.pull_command == "edgespec pull tiny --keep-layers 0-1,5 --name d"


def test_layers_as_ranges() -> None:
    assert format_layers([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
