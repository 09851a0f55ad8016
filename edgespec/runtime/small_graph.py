"""Graphs of a few nodes, for what is done with tensors where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgespec.errors import GenerationError
from edgespec.runtime.memory import Memory
from edgespec.runtime.session import first_line, open_small_session

_OPSET: Final = 17
_IR_VERSION: Final = 8
"""Old enough that every provider has all that is used."""

Tensor = tuple[DTypeLike, Sequence[int | str]]
"""A type and a shape; names stand for dimensions that are free."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """A graph: nodes (operator, inputs, outputs, attributes) in order, and what they take and give by name."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    nodes: Sequence[tuple[str, Sequence[str], Sequence[str], Mapping[str, Any]]]
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])

    def serialized(self) -> bytes:
        from onnx import helper, numpy_helper  # slow to import, and only devices apart from the host need it

        def values(tensors: Mapping[str, Tensor]) -> list[Any]:
            kinds = {name: helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) for name, (dtype, _) in tensors.items()}
            return [helper.make_tensor_value_info(name, kinds[name], shape) for name, (_, shape) in tensors.items()]

        nodes = [helper.make_node(op, inputs, outputs, **more) for op, inputs, outputs, more in self.nodes]
        constants = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(nodes, "small", values(self.inputs), values(self.outputs), constants)
        opsets = [helper.make_opsetid("", _OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString()


class SmallGraph:
    """A session for some nodes, on the device of `memory`. What is there is bound through `binding`."""

    def __init__(self, nodes: Nodes, memory: Memory) -> None:
        self._memory = memory
        self._session = open_small_session(nodes.serialized(), memory.device)
        self.binding: Any = self._session.io_binding()
        self._fetched: dict[str, NDArray[Any]] = {}

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> None:
        """Run on what is bound and on these inputs of the host, into these arrays of the host. The same array as last
        time needs no binding, which takes longer than many a run.

        Raises: GenerationError.
        """
        try:
            for name, array in inputs.items():
                self._memory.send(self.binding, name, array, array.shape)
            for name, array in outputs.items():
                if self._fetched.get(name) is array:
                    self._memory.fetch_again(array)
                else:
                    self._memory.fetch(self.binding, name, array, array.shape)
                    self._fetched[name] = array
            self._memory.run(self._session, self.binding)
        except Exception as e:  # ONNX Runtime raises classes of its own that share no base but Exception
            raise GenerationError(f"Reading from the device failed: {first_line(e)}") from e
