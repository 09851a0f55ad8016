"""Loading, threads and devices: what works, and what is said where it does not."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_lm import CONTEXT, VOCAB, Shape

from edgespec.errors import ModelError, UsageError
from edgespec.runtime import session
from edgespec.runtime.model import OnnxCausalLM
from edgespec.runtime.session import default_threads, open_session, use_threads


def in_a_new_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# -- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x00" * 1000], ids=["empty", "text", "zeros"])
def test_a_file_that_is_no_graph_is_a_model_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"^ONNX Runtime cannot load .*model\.onnx: [^\n]+$"):
        OnnxCausalLM.open(path, context_length=CONTEXT, vocab_size=VOCAB)


def test_a_graph_cut_in_the_middle_is_a_model_error(graphs: Callable[[Shape], Path], tmp_path: Path) -> None:
    whole = graphs(Shape("shared")).read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="ONNX Runtime cannot load"):
        open_session(path, "cpu")


def test_a_missing_file_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="ONNX Runtime cannot load"):
        open_session(tmp_path / "model.onnx", "cpu")


# -- threads ---------------------------------------------------------------------------------------------------------


def test_the_thread_pool_is_sized_once_per_process() -> None:
    done = in_a_new_process("""
        from edgespec.errors import UsageError
        from edgespec.runtime.session import use_threads

        assert use_threads(1) == 1
        assert use_threads(None) == 1
        assert use_threads(1) == 1
        try:
            use_threads(2)
        except UsageError as error:
            print(error)
    """)
    assert done.stderr == ""
    assert done.stdout == "this process already runs with 1 threads; start another one for 2.\n"


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_a_number_of_threads_out_of_range_is_a_usage_error(threads: int) -> None:
    with pytest.raises(UsageError, match=f"threads cannot be {threads}; it must be between 1 and 256."):
        use_threads(threads)


def test_the_default_is_what_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_threads() >= 1
    assert use_threads(None) >= 1

    def cores(logical: bool = True) -> int | None:
        return 64

    monkeypatch.setattr(session.psutil, "cpu_count", cores)
    monkeypatch.setattr(session.os, "sched_getaffinity", lambda pid: {0, 5, 7}, raising=False)
    assert default_threads() == 3
    monkeypatch.setattr(session.psutil, "cpu_count", lambda logical=True: None)
    assert default_threads() == 3


# -- what is imported ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["edgespec", "edgespec.decoding.rounds", "edgespec.decoding.drafters.draft_model"])
def test_onnxruntime_is_imported_only_by_the_runtime(module: str) -> None:
    done = in_a_new_process(f"""
        import sys
        import {module}
        print([m for m in ("onnx", "onnxruntime", "torch") if m in sys.modules])
    """)
    assert done.stdout == "[]\n", done.stderr


def test_opening_a_graph_imports_no_onnx(graphs: Callable[[Shape], Path]) -> None:
    """It costs 0.3 s and a copy of the graph."""
    done = in_a_new_process(f"""
        import sys
        from pathlib import Path
        from edgespec.runtime.model import OnnxCausalLM
        OnnxCausalLM.open(Path({str(graphs(Shape("shared")))!r}), context_length=8, vocab_size={VOCAB})
        print("onnx" in sys.modules)
    """)
    assert done.stdout == "False\n", done.stderr
