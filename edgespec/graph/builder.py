"""Building an ONNX graph whose weights are streamed into a data file beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgespec.errors import ModelError

Profile = Literal["cpu", "cuda"]
"""What the floats of a graph are, its inputs and outputs included: float32 for "cpu", float16 for "cuda"."""

GRAPH_NAME: Final = "model.onnx"
DATA_NAME: Final = "model.onnx.data"
MICROSOFT: Final = "com.microsoft"
_OPSET: Final = 21
_IR_VERSION: Final = 10
_ALIGNMENT: Final = 4096
"""Bytes: each tensor starts a page of the data file, so that it can be mapped."""


class GraphBuilder:
    """Collects nodes, inputs, outputs and weights. Weights go straight to `directory`/model.onnx.data.

    Use it as a context manager, which closes that file, and call `save` inside. `element` and `dtype` are the type of
    the profile's floats.
    """

    def __init__(self, directory: Path, profile: Profile = "cpu") -> None:
        self.profile: Final = profile
        self.element: Final = TensorProto.FLOAT if profile == "cpu" else TensorProto.FLOAT16
        self.dtype: Final[type[np.generic]] = np.float32 if profile == "cpu" else np.float16
        self._directory = directory
        self._data = (directory / DATA_NAME).open("wb")
        self._nodes: list[NodeProto] = []
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []
        self._tensors: list[TensorProto] = []

    def __enter__(self) -> GraphBuilder:
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()

    def input(self, name: str, element: int, shape: Sequence[int | str]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, element, shape))
        return name

    def output(self, name: str, element: int, shape: Sequence[int | str]) -> str:
        self._outputs.append(helper.make_tensor_value_info(name, element, shape))
        return name

    def constant(self, name: str, values: Any, dtype: type[np.generic] = np.int64) -> str:
        """A small tensor, kept inside the graph file. If `name` is an input too, this is its default."""
        self._tensors.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        name: str,
        outputs: Sequence[str] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node, by default with one output that is called like the node. Returns the first output's name."""
        results = [name] if outputs is None else list(outputs)
        self._nodes.append(helper.make_node(op, inputs, results, name=name, domain=domain, **attributes))
        return results[0]

    def weight(self, name: str, chunks: Iterable[NDArray[Any]], shape: Sequence[int], element: int) -> str:
        """Write `chunks` one after the other, little-endian, as one tensor of the data file."""
        self._data.seek(-(-self._data.tell() // _ALIGNMENT) * _ALIGNMENT)
        start = self._data.tell()
        for chunk in chunks:
            self._data.write(np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("<")).data)
        self._refer(name, start, self._data.tell() - start, shape, element)
        return name

    def floats(self, name: str, chunks: Iterable[NDArray[np.float32]], shape: Sequence[int]) -> str:
        """`weight` in the profile's type of floats. Raises: ModelError for values that it cannot hold."""
        return self.weight(name, (self._converted(name, chunk) for chunk in chunks), shape, self.element)

    def alias(self, name: str, weight: str, shape: Sequence[int]) -> str:
        """The bytes of `weight` once more under another name and shape; the file holds them once."""
        tensor = next(t for t in self._tensors if t.name == weight)
        place = {entry.key: int(entry.value) for entry in tensor.external_data if entry.key != "location"}
        self._refer(name, place["offset"], place["length"], shape, tensor.data_type)
        return name

    def save(self, name: str) -> None:
        """Write model.onnx. Raises: OSError."""
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._tensors)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="edgespec")
        self._data.flush()
        (self._directory / GRAPH_NAME).write_bytes(model.SerializeToString(deterministic=True))

    def _converted(self, name: str, chunk: NDArray[np.float32]) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            converted = chunk.astype(self.dtype, copy=False)
        if not np.isfinite(converted).all():
            raise ModelError(f"The values of {name} are too large for float16; convert the model for the CPU.")
        return converted

    def _refer(self, name: str, offset: int, length: int, shape: Sequence[int], element: int) -> None:
        tensor = TensorProto(name=name, dims=shape, data_type=element, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", DATA_NAME), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
        self._tensors.append(tensor)
