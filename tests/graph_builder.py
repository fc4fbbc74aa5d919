"""The builder of small graphs in Python, for graphs that a test varies; a fixed one is ONNX text (`graph_text`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper


class GraphBuilder:
    """One graph under construction: each method adds a node or a tensor and returns its name.

    `node` and `constant` take the name, `op` and `ints` make a new one.
    """

    def __init__(self, dtype: Any = np.float32, seed: int = 0) -> None:
        self.dtype = np.dtype(dtype)
        self.elem_type = helper.np_dtype_to_tensor_dtype(self.dtype)
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._names = 0

    def name(self, stem: str) -> str:
        self._names += 1
        return f"{stem}_{self._names}"

    def random(self, *shape: int) -> Any:
        return (0.5 * self.rng.standard_normal(shape)).astype(self.dtype)

    def weight(self, name: str, *shape: int) -> str:
        return self.constant(name, self.random(*shape))

    def constant(self, name: str, value: Any) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def ints(self, *numbers: int) -> str:
        return self.constant(self.name("ints"), np.array(numbers, dtype=np.int64))

    def node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        named = {"name": f"{op_type}_{output}"} | attributes
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], **named))
        return output

    def op(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node whose outputs get new names: the name of the one output, or the names of several."""
        names = [self.name(op_type) for _ in range(outputs)]
        self.nodes.append(
            helper.make_node(op_type, list(inputs), names, name=self.name(f"n_{op_type}"), **attributes)
        )
        return names[0] if outputs == 1 else names

    def info(self, name: str, shape: Sequence[Any] | None, elem_type: int | None = None) -> ValueInfoProto:
        return helper.make_tensor_value_info(name, elem_type or self.elem_type, shape)

    def graph(
        self, outputs: Sequence[ValueInfoProto], inputs: Sequence[ValueInfoProto] = (), name: str = "body"
    ) -> GraphProto:
        return helper.make_graph(self.nodes, name, list(inputs), list(outputs), self.initializers)

    def body(
        self, write: Callable[[], Sequence[ValueInfoProto]], inputs: Sequence[ValueInfoProto] = ()
    ) -> GraphProto:
        """The nodes and tensors that `write` adds, as a graph of their own; it returns the outputs."""
        around = self.nodes, self.initializers
        self.nodes, self.initializers = [], []
        graph = self.graph(write(), inputs)
        self.nodes, self.initializers = around
        return graph

    def model(
        self, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto], opset: int = 17
    ) -> ModelProto:
        graph = self.graph(outputs, inputs, "toy")
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        helper.set_model_props(made, {"author": "tests"})
        return made
