"""pull, list, show, rm and verify as a user sees them: data on stdout, narration on stderr."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from heads import weights, write_head

from edgespec.bundle import Checks
from edgespec.bundle.manifest import read_manifest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_pull_a_file(run: Run, home: Path) -> None:
    result = run("pull", str(home / "tiny.gguf"), "--keep-layers", "0-1", "--name", "both", "--offline")
    assert (result.returncode, result.stdout) == (0, "both\n")
    assert "edgespec: Converting the model\n" in result.stderr
    assert json.loads(run("show", "both", "--json").stdout)["layers"] == [0, 1]


def test_pull_with_no_network(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    result = run("pull", "smollm2-135m")
    assert (result.returncode, result.stdout) == (4, "")
    assert "pip could not fetch" in result.stderr.splitlines()[-1]
    assert run("list").stdout.count("\n") == 2


def test_list(run: Run) -> None:
    lines = run("list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "SIZE", "CONTEXT", "AGREEMENT", "LICENSE"]
    assert lines[1].split() == ["tiny", "0", "MB", "256", "-", "apache-2.0"]
    (entry,) = json.loads(run("list", "--json").stdout)
    assert entry == json.loads(run("show", "tiny", "--json").stdout)


def test_list_of_the_catalog(run: Run) -> None:
    lines = run("list", "--catalog").stdout.splitlines()
    assert lines[0].split() == ["NAME", "DRAFT", "FETCHES", "MEMORY", "LICENSE", "SUITS"]
    (qwen,) = [line for line in lines if line.startswith("qwen3-4b ")]
    assert qwen.split()[1:7] == ["qwen3-0.6b", "8.0", "GB", "6.0", "GB", "Apache-2.0"]
    entries = {entry["name"]: entry for entry in json.loads(run("list", "--catalog", "--json").stdout)}
    assert len(entries) == len(lines) - 1
    assert entries["qwen3-4b"]["source"]["repository"] == "Qwen/Qwen3-4B"
    assert not entries["qwen3-4b"]["here"]


def test_list_of_nothing(run: Run, home: Path) -> None:
    shutil.rmtree(home / "models")
    result = run("list")
    assert (result.returncode, result.stdout) == (0, "")
    assert "edgespec pull smollm2-135m" in result.stderr
    assert json.loads(run("list", "--json").stdout) == []


def test_list_tells_of_damaged_ones(run: Run, home: Path) -> None:
    (home / "models" / "tiny" / "model.onnx").write_bytes(b"")
    result = run("list")
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == "edgespec: tiny is damaged and not listed; `edgespec verify tiny` says how\n"


def test_show(run: Run, home: Path) -> None:
    shown = json.loads(run("show", "tiny", "--json").stdout)
    assert shown["name"] == "tiny"
    assert shown["path"] == str(home / "models" / "tiny")
    assert shown["quality"] is None
    assert shown["size"] == sum(record["size"] for record in shown["files"].values())
    assert (shown["context_length"], shown["vocab_size"], shown["eos_ids"]) == (256, 304, [2])
    text = run("show", "tiny").stdout
    assert f"path          {home / 'models' / 'tiny'}\n" in text
    assert "context       256 tokens\n" in text


def test_show_what_an_export_found(run: Run, home: Path) -> None:
    directory = home / "models" / "tiny"
    checks = Checks(parity=2e-5, memory=120_000_000, pass_ms=(10.0, 12.5, 20.0))
    dataclasses.replace(read_manifest(directory), checks=checks, draft="small").write(directory)
    text = run("show", "tiny").stdout
    assert "draft         small\n" in text
    assert "parity        within 2.0e-05 of transformers' logits\n" in text
    dataclasses.replace(read_manifest(directory), checks=dataclasses.replace(checks, parity=None)).write(directory)
    assert "parity        not compared" in run("show", "tiny").stdout
    assert "memory        120 MB where it was exported\n" in text
    assert "pass          10.0 ms; of 1 to 3 rows, in ratio: 1.00 1.25 2.00\n" in text


def test_show_by_path(run: Run, home: Path) -> None:
    assert run("show", str(home / "models" / "tiny")).stdout == run("show", "tiny").stdout


def test_hostile_manifest_text_steers_no_terminal(run: Run, home: Path) -> None:
    path = home / "models" / "tiny" / "edgespec.json"
    manifest = json.loads(path.read_text())
    manifest |= {"license": "\x1b]52;c;eA==\x07", "recipe": "a\nb\x9b2J"}
    path.write_text(json.dumps(manifest))
    for args in (("list",), ("show", "tiny"), ("show", "tiny", "--json")):
        out = run(*args).stdout
        assert out
        assert all(character.isprintable() or character == "\n" for character in out)


def test_rm(run: Run, home: Path) -> None:
    result = run("rm", "tiny", "nothing")
    assert result.returncode == 3
    assert (home / "models" / "tiny").exists()
    result = run("rm", "tiny")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "edgespec: deleted tiny\n")
    assert not (home / "models" / "tiny").exists()


def test_rm_of_a_damaged_one(run: Run, home: Path) -> None:
    (home / "models" / "tiny" / "edgespec.json").write_text("{")
    assert run("rm", "tiny").returncode == 0
    assert not (home / "models" / "tiny").exists()


def test_verify(run: Run, home: Path) -> None:
    shutil.copytree(home / "models" / "tiny", home / "elsewhere")
    result = run("verify")
    assert (result.returncode, result.stdout) == (0, "tiny: ok\n")
    assert run("verify", str(home / "elsewhere")).stdout == f"{home / 'elsewhere'}: ok\n"
    data = home / "models" / "tiny" / "model.onnx.data"
    content = bytearray(data.read_bytes())
    content[1000] ^= 4
    data.write_bytes(content)
    result = run("verify", "nothing", "tiny", str(home / "elsewhere"))
    assert result.returncode == 5
    assert result.stdout == f"nothing: failed\ntiny: failed\n{home / 'elsewhere'}: ok\n"
    errors = [line for line in result.stderr.splitlines() if "Verifying" not in line]
    assert len(errors) == 2
    assert "there is no model nothing" in errors[0]
    assert "model.onnx.data of tiny is not the file that was recorded" in errors[1]
    assert "`edgespec pull " in errors[1]
    command = errors[1].split("`")[1].split()
    assert run(*command[1:]).returncode == 0
    assert run("verify", "tiny").returncode == 0


def test_verify_of_an_unusable_manifest(run: Run, home: Path) -> None:
    (home / "models" / "tiny" / "edgespec.json").unlink()
    assert run("verify", "tiny").returncode == 3


def test_a_head_is_pulled_shown_and_not_run(run: Run, home: Path, tmp_path: Path) -> None:
    folder = write_head(tmp_path / "my-head", weights())
    pulled = run("pull", str(folder), "--head-of", "tiny")
    assert (pulled.returncode, pulled.stdout) == (0, "my-head\n")
    assert "`edgespec run tiny --draft my-head` uses it" in pulled.stderr
    assert "drafts for    tiny\n" in run("show", "my-head").stdout
    assert "my-head" in run("list").stdout
    refused = run("run", "my-head", "hello")
    assert refused.returncode == 3
    assert "edgespec run tiny --draft my-head" in refused.stderr
    wrong = run("pull", str(folder), "--head-of", "tiny", "--weights", "mixed")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert run("rm", "my-head", "--yes").returncode == 0
