"""Fetching from a server that speaks the Hub's API: whole, broken off, refused, and not what was listed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_hub import FakeHub

from edgespec.bundle.files import no_progress
from edgespec.bundle.hub import HubReference, look_up
from edgespec.bundle.hub_download import fetch_files, missing_bytes
from edgespec.errors import ChecksumError, DownloadError, EdgespecError, ModelError

WEIGHTS = random.Random(0).randbytes(300_000)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}" * 50,
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "pytorch_model.bin": b"a pickle",
    "modeling_tiny.py": b"code",
    "original/consolidated.safetensors": b"the same weights again",
    "README.md": b"words",
}
WANTED = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


@pytest.fixture
def hub(loopback_hub: FakeHub) -> FakeHub:
    loopback_hub.repositories["some/tiny"] = dict(FILES)
    return loopback_hub


def fetch(directory: Path, reference: str = "some/tiny") -> dict[str, bytes]:
    parsed = HubReference.parse(reference)
    assert parsed is not None
    fetch_files(look_up(parsed), directory, no_progress)
    assert not any(path.is_symlink() for path in directory.iterdir())
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("some/tiny", HubReference("some/tiny")),
        ("some/tiny@v1.0", HubReference("some/tiny", "v1.0")),
        ("some/tiny@refs/pr/1", HubReference("some/tiny", "refs/pr/1")),
        ("some/tiny:sub/tiny.Q4_K_M.gguf", HubReference("some/tiny", "main", "sub/tiny.Q4_K_M.gguf")),
        ("some/tiny@v1:tiny.gguf", HubReference("some/tiny", "v1", "tiny.gguf")),
        *(
            (other, None)
            for other in ("tiny", "a/b/c", "./a", "../a", "/a/b", "~/b", "a/tiny.gguf", "a/b:", "a/b@", "")
        ),
    ],
)
def test_references(text: str, expected: HubReference | None) -> None:
    assert HubReference.parse(text) == expected


def test_what_a_bundle_needs_and_nothing_else(hub: FakeHub, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = look_up(HubReference("some/tiny"))
    assert (model.revision, model.license) == (hub.commit("some/tiny"), "apache-2.0")
    heard: list[tuple[str, float]] = []
    fetch_files(model, tmp_path / "model", lambda stage, fraction: heard.append((stage, fraction)))
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == {n: FILES[n] for n in WANTED}
    assert heard[0] == ("Fetching some/tiny, 0.3 MB", 0.0)
    fractions = [fraction for _, fraction in heard]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert len(heard) > 20
    assert missing_bytes(model, tmp_path / "model") == 0
    assert capfd.readouterr() == ("", "")
    asked = sorted(path for path, _, _ in hub.requests)
    commit = hub.commit("some/tiny")
    assert asked == sorted(
        ["/api/models/some/tiny/revision/main"]
        + [f"/some/tiny/resolve/{commit}/{name}" for name in WANTED]
        + [f"/cdn/some/tiny/{name}" for name in ("model.safetensors", "tokenizer.json")]
    )


def test_one_gguf_file(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["some/tiny"]["q4/tiny.gguf"] = b"GGUF"
    assert fetch(tmp_path / "model", "some/tiny:q4/tiny.gguf") == {"tiny.gguf": b"GGUF"}
    with pytest.raises(ModelError, match=r"has no other\.gguf; .*q4/tiny\.gguf"):
        fetch(tmp_path / "model", "some/tiny:other.gguf")


def test_shards_come_with_their_index_and_without_a_copy(hub: FakeHub, tmp_path: Path) -> None:
    shards = {f"model-0000{i}-of-00002.safetensors": b"part %d" % i for i in (1, 2)}
    index = {"model.safetensors.index.json": b'{"weight_map": {}}'}
    hub.repositories["some/big"] = {"config.json": b"{}", "consolidated.safetensors": b"again", **shards, **index}
    assert fetch(tmp_path / "model", "some/big") == {"config.json": b"{}", **shards, **index}


@pytest.mark.parametrize("files", [{"config.json": b"{}", "pytorch_model.bin": b""}, {"model.safetensors": b""}, {}])
def test_nothing_to_make_a_bundle_of(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repositories["some/odd"] = files
    with pytest.raises(ModelError, match="some/odd has no"):
        look_up(HubReference("some/odd"))


def test_a_connection_that_breaks_off_once(hub: FakeHub, tmp_path: Path) -> None:
    hub.break_after = [150_000]
    assert fetch(tmp_path / "model")["model.safetensors"] == WEIGHTS
    resumed = [wanted for wanted in hub.ranges() if wanted]
    assert len(resumed) == 1
    assert int(resumed[0].removeprefix("bytes=").rstrip("-")) >= 100_000


def test_a_later_run_goes_on_where_this_one_stopped(hub: FakeHub, tmp_path: Path) -> None:
    hub.break_after = [150_000] + [-1] * 20
    with pytest.raises(DownloadError, match=r"HTTP 503 for some/tiny; .*what was fetched is kept"):
        fetch(tmp_path / "model")
    left = missing_bytes(look_up(HubReference("some/tiny")), tmp_path / "model")
    assert 0 < left < 250_000
    assert not (tmp_path / "model" / "model.safetensors").exists()
    hub.break_after.clear()
    hub.requests.clear()
    assert fetch(tmp_path / "model").keys() == WANTED
    behind = sum(len(FILES[name]) for name in ("tokenizer.json", "tokenizer_config.json"))
    assert f"bytes={len(WEIGHTS) - (left - behind)}-" in hub.ranges()


def test_a_server_that_ignores_where_to_go_on(hub: FakeHub, tmp_path: Path) -> None:
    hub.break_after = [150_000]
    hub.ignores_range = True
    assert fetch(tmp_path / "model")["model.safetensors"] == WEIGHTS


def test_a_server_that_stalls(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    hub.stall_after = 200_000
    assert fetch(tmp_path / "model")["model.safetensors"] == WEIGHTS
    assert any(wanted for wanted in hub.ranges())


def test_what_progress_raises_stops_it_and_keeps_what_came(hub: FakeHub, tmp_path: Path) -> None:
    model = look_up(HubReference("some/tiny"))

    def stop(stage: str, fraction: float) -> None:
        if fraction > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_files(model, tmp_path / "model", stop)
    assert 0 < missing_bytes(model, tmp_path / "model") < 200_000
    assert fetch(tmp_path / "model").keys() == WANTED


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize(
    "change", [lambda b: b[:-1] + b"x", lambda b: b + b"x", lambda b: b[:-1]], ids=["bit", "long", "short"]
)
def test_not_the_file_that_was_listed(
    hub: FakeHub, tmp_path: Path, name: str, change: Callable[[bytes], bytes]
) -> None:
    hub.served[name] = change(FILES[name])
    with pytest.raises(ChecksumError, match=name):
        fetch(tmp_path / "model")
    assert not (tmp_path / "model" / name).exists()
    hub.served.clear()
    assert fetch(tmp_path / "model")[name] == FILES[name]


def test_a_damaged_part_is_thrown_away(hub: FakeHub, tmp_path: Path) -> None:
    model = look_up(HubReference("some/tiny"))
    digest = next(file.digest for file in model.files if file.path == "model.safetensors")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / f".{digest}.part").write_bytes(bytes(200_000))
    assert fetch(tmp_path / "model")["model.safetensors"] == WEIGHTS


def test_a_new_commit_fetches_only_what_changed(hub: FakeHub, tmp_path: Path) -> None:
    fetch(tmp_path / "model")
    old = hub.commit("some/tiny")
    hub.repositories["some/tiny"]["config.json"] = b'{"model_type": "qwen3"}'
    hub.requests.clear()
    assert fetch(tmp_path / "model")["config.json"] == b'{"model_type": "qwen3"}'
    assert hub.ranges() == []
    with pytest.raises(DownloadError, match="no such revision"):
        fetch(tmp_path / "model", f"some/tiny@{old}")


GATED = {"X-Error-Code": "GatedRepo"}


@pytest.mark.parametrize(
    ("status", "headers", "token", "sentence"),
    [
        (401, {}, None, "has no some/tiny that anybody may read; .*HF_TOKEN"),
        (401, GATED, None, r"is gated; accept its terms on http://127\.0\.0\.1:\d+/some/tiny, set HF_TOKEN"),
        (403, GATED, "secret", "your token may not read it; ask for access"),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "bad", "refused your token"),
        (403, {}, "weak", "your token may not read some/tiny"),
        (404, {"X-Error-Code": "RepoNotFound"}, None, "the Hub has no some/tiny; check the name"),
        (500, {}, None, "HTTP 500"),
        (429, {}, None, "HTTP 429"),
    ],
)
def test_refusals(
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    headers: dict[str, str],
    token: str | None,
    sentence: str,
) -> None:
    hub.refuse = (status, headers)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(DownloadError, match=sentence) as caught:
        look_up(HubReference("some/tiny"))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_token_goes_to_the_hub_and_no_further(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    fetch(tmp_path / "model")
    seen = {(path.startswith("/cdn/"), token) for path, _, token in hub.requests}
    assert seen == {(False, "Bearer secret"), (True, None)}


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(DownloadError, match=r"http://127\.0\.0\.1:9 could not be reached \(.*\); check the network"):
        look_up(HubReference("some/tiny"))


CHILD = """
import sys
from pathlib import Path
from edgespec.bundle.files import no_progress
from edgespec.bundle.hub import HubReference, look_up
from edgespec.bundle.hub_download import fetch_files
from edgespec.errors import EdgespecError
try:
    fetch_files(look_up(HubReference("some/tiny")), Path(sys.argv[1]), no_progress)
except EdgespecError as error:
    print(error)
"""


def test_the_environment_of_huggingface_hub(hub: FakeHub, tmp_path: Path) -> None:
    """HF_HUB_OFFLINE fetches nothing; a token under HF_HOME is used, and what its cache holds is not fetched again."""
    home = tmp_path / "hf"
    env = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", CHILD, str(tmp_path / "model")]
    offline = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert (offline.stdout.count("\n"), "HF_HUB_OFFLINE" in offline.stdout, offline.stderr) == (1, True, "")
    cache = home / "hub" / "models--some--tiny"
    (cache / "blobs").mkdir(parents=True)
    (cache / "blobs" / "weights").write_bytes(WEIGHTS)
    snapshot = cache / "snapshots" / hub.commit("some/tiny")
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(cache / "blobs" / "weights")
    (home / "token").write_text("from a file")
    del env["HF_HUB_OFFLINE"]
    online = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert (online.stdout, online.stderr) == ("", "")
    assert {path.name for path in (tmp_path / "model").iterdir()} == WANTED
    assert not (tmp_path / "model" / "model.safetensors").is_symlink()
    assert all("safetensors" not in path for path, _, _ in hub.requests)
    assert {token for path, _, token in hub.requests if path.startswith("/api/")} == {"Bearer from a file"}


def test_hostile_names_are_not_fetched(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["some/tiny"] |= {"../canary.json": b"{}", ".hidden.json": b"{}", "/etc/x.json": b"{}"}
    assert fetch(tmp_path / "model").keys() == WANTED
    hub.repositories["some/tiny"]["sub/..gguf"] = b""
    with pytest.raises(EdgespecError):
        fetch(tmp_path / "model", "some/tiny:sub/..gguf")
