"""Which device, and what is said where CUDA cannot be had."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_cuda import FakeCuda
from tiny_lm import CONTEXT, VOCAB, Shape

from edgespec.errors import ModelError
from edgespec.runtime import cuda, session
from edgespec.runtime.device import Device, choose_device, likely_device
from edgespec.runtime.model import OnnxCausalLM
from edgespec.runtime.session import nodes_on_processor, open_session

Graphs = Callable[[Shape], Path]

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no CUDA")


@pytest.mark.parametrize(
    ("fake", "reason"),
    [
        (FakeCuda(missing=["libcuda.so.1"]), "no NVIDIA driver is installed"),
        (FakeCuda(init=100), "the NVIDIA driver finds no GPU"),
        (FakeCuda(devices=0), "the NVIDIA driver finds no GPU"),
    ],
)
def test_without_a_gpu_cuda_is_refused_and_auto_says_why_it_is_the_cpu(
    fake: FakeCuda, reason: str, monkeypatch: pytest.MonkeyPatch, graphs: Graphs
) -> None:
    graph = graphs(Shape("shared"))
    fake.install(monkeypatch)
    with pytest.raises(ModelError, match=f"CUDA cannot be used: {reason}. Use --device cpu, or run `edgespec doctor`"):
        OnnxCausalLM.open(graph, context_length=CONTEXT, vocab_size=VOCAB, device="cuda")
    model = OnnxCausalLM.open(graph, context_length=CONTEXT, vocab_size=VOCAB, device="auto")
    assert model.device == Device("cpu", reason)
    assert choose_device("cpu", half_precision=True) == Device("cpu", "asked for")
    assert likely_device("auto") == "cpu"
    assert cuda.inspect_cuda().obstacle == reason
    assert cuda.free_memory() is None


def test_with_a_gpu_the_graphs_precision_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda().install(monkeypatch)
    assert choose_device("auto", half_precision=True) == Device("cuda", "an NVIDIA GPU is present")
    assert choose_device("cuda", half_precision=True) == Device("cuda", "asked for")
    reason = "this bundle's graph is float32, made for the CPU"
    assert choose_device("auto", half_precision=False) == Device("cpu", reason)
    with pytest.raises(ModelError, match=f"CUDA cannot be used: {reason}. To change that: pull the model with --prof"):
        choose_device("cuda", half_precision=False)


@pytest.mark.parametrize(
    ("fake", "built_for", "obstacle", "remedy"),
    [
        (FakeCuda(), "", "was built without CUDA", "pip uninstall onnxruntime onnxruntime-gpu, then pip install"),
        (FakeCuda(supports=12040), "13.0", "the driver runs CUDA up to 12.4 and ONNX Runtime needs 13.0", "update"),
        (FakeCuda(compute=(6, 1)), "13.0", "has compute capability 6.1 and CUDA 13 needs 7.5", None),
        (
            FakeCuda(missing=["libcublas.so.13", "libcurand.so.10"]),
            "13.0",
            "libcublas.so.13, libcurand.so.10 cannot be loaded",
            r"pip install 'onnxruntime-gpu\[cuda,cudnn\]'",
        ),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_installs_it(
    fake: FakeCuda, built_for: str, obstacle: str, remedy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.install(monkeypatch, built_for)
    step = f"To change that: {remedy}" if remedy else "Use --device cpu"
    with pytest.raises(ModelError, match=f"^CUDA cannot be used: .*{obstacle}. {step}.*doctor`.$"):
        choose_device("cuda", half_precision=True)
    chosen = choose_device("auto", half_precision=True)
    assert chosen.kind == "cpu"
    assert obstacle in chosen.reason


def test_a_gpu_for_an_older_cuda_is_judged_by_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(supports=12060, compute=(6, 1)).install(monkeypatch, "12.8")
    assert choose_device("cuda", half_precision=True).kind == "cuda"


def test_what_there_is(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    FakeCuda(shares_memory=True, free=123, total=456).install(monkeypatch)
    assert cuda.inspect_cuda() == cuda.Cuda(
        cuda.Gpu("NVIDIA Test", (8, 9), 456, shares_memory=True), "580.65.06", (13, 1), (13, 0), "9.3.0"
    )
    assert cuda.free_memory() == (123, 456)
    assert cuda.shares_memory()
    assert capfd.readouterr() == ("", "")  # nothing that ONNX Runtime prints reaches a screen


def test_macos_has_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda.sys, "platform", "darwin")
    assert choose_device("auto", half_precision=True) == Device("cpu", "macOS has no CUDA")


# -- what the session really runs on ----------------------------------------------------------------------------------


class FakeSession:
    """A session that was asked for CUDA. left: the operators that it gave to the processor."""

    providers: tuple[str, ...] = ("CUDAExecutionProvider", "CPUExecutionProvider")
    left: tuple[str, ...] = ()

    def __init__(self, *_: object, **more: object) -> None:
        assert "CUDAExecutionProvider" in str(more["providers"])
        assert more["enable_fallback"] == 0

    def get_providers(self) -> list[str]:
        return list(self.providers)

    def get_provider_graph_assignment_info(self) -> list[SimpleNamespace]:
        given = {"CPUExecutionProvider": self.left, "CUDAExecutionProvider": ("MatMul", "GroupQueryAttention")}
        return [
            SimpleNamespace(ep_name=name, get_nodes=lambda ops=ops: [SimpleNamespace(op_type=op) for op in ops])
            for name, ops in given.items()
        ]


@pytest.fixture
def fake_session(monkeypatch: pytest.MonkeyPatch) -> type[FakeSession]:
    FakeCuda().install(monkeypatch)
    made = type("Made", (FakeSession,), {})
    monkeypatch.setattr(session.ort, "InferenceSession", made)
    return made


def test_a_session_that_fell_back_in_silence_is_noticed(fake_session: type[FakeSession], graphs: Graphs) -> None:
    fake_session.providers = ("CPUExecutionProvider",)
    with pytest.raises(ModelError, match="CUDA cannot be used: ONNX Runtime fell back to CPUExecutionProvider"):
        open_session(graphs(Shape("shared")), "cuda")


def test_a_graph_whose_products_would_run_on_the_processor_is_no_cuda(
    fake_session: type[FakeSession], graphs: Graphs
) -> None:
    fake_session.left = ("MatMulNBits", "Shape", "MatMulNBits")
    with pytest.raises(ModelError, match=r"leaves MatMulNBits \(2 nodes\) of this graph to the processor"):
        open_session(graphs(Shape("shared")), "cuda")
    fake_session.left = ("Shape", "Gather", "Shape")
    opened = open_session(graphs(Shape("shared")), "cuda")
    assert nodes_on_processor(opened) == {"Shape": 2, "Gather": 1}


def test_libraries_are_looked_for_before_a_session_is_made(
    fake_session: type[FakeSession], graphs: Graphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime would print that they are missing, and go on without."""
    FakeCuda(missing=["libcublasLt.so.13"]).install(monkeypatch)
    with pytest.raises(ModelError, match=r"libcublasLt.so.13 cannot be loaded. To change that: pip install"):
        open_session(graphs(Shape("shared")), "cuda")
