"""The library's front door, as somebody who imports it meets it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from homes import fill_home

import edgespec

README = Path(__file__).resolve().parents[1] / "README.md"


def python(code: str, **env: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **env}).stdout


def test_all_is_what_can_be_imported() -> None:
    for name in edgespec.__all__:
        assert getattr(edgespec, name) is not None
    assert edgespec.__all__ == sorted(set(edgespec.__all__))
    assert set(edgespec.__all__) == set(edgespec._HOME)
    everything: dict[str, Any] = {}
    exec("from edgespec import *", everything)
    assert everything.keys() - {"__builtins__"} == set(edgespec.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Modell'"):
        _ = edgespec.Modell  # pyright: ignore[reportAttributeAccessIssue]


def test_the_types_are_found_where_they_are_said_to_be() -> None:
    source = (Path(edgespec.__file__)).read_text(encoding="utf-8")
    typed = re.findall(r"^    from edgespec\.([\w.]+) import (.+)$", source, re.MULTILINE)
    assert {name: home for home, names in typed for name in names.split(", ")} == edgespec._HOME


def test_importing_it_waits_for_nothing_heavy() -> None:
    heavy = "{'numpy', 'onnx', 'onnxruntime', 'tokenizers', 'jinja2', 'textual', 'click'}"
    assert python(f"import sys, edgespec; print({heavy} & sys.modules.keys())") == "set()\n"
    assert python(f"import sys, edgespec; edgespec.EdgespecError; print({heavy} & sys.modules.keys())") == "set()\n"


def test_the_readmes_example_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(import edgespec\n.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 1
    example, count = re.subn(r'open_chat\("[^"]+"', 'open_chat("tiny"', blocks[0])
    assert count == 1
    home = str(fill_home(tmp_path))
    answer = "*_, answer = edgespec.open_chat('tiny').send('Why is the sky blue?'); print(answer.text, end='')"
    said = python(example, EDGESPEC_HOME=home, PYTHONIOENCODING="utf-8")
    assert said == python(f"import edgespec; {answer}", EDGESPEC_HOME=home, PYTHONIOENCODING="utf-8") != ""
