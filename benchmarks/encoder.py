"""An encoder of BERT's shape with random weights, as deep as you like. Made without torch.

Post-norm attention and feed-forward blocks; `norms` and `chain` are for what searches cost: blocks that nothing
normalizes are one long sum, and a chain is small nodes behind the last block.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class Shape:
    """Sizes of an encoder."""

    layers: int = 6
    width: int = 256
    heads: int = 8
    vocabulary: int = 1000
    norms: bool = True
    chain: int = 0


@dataclass
class Encoder:
    """The nodes and weights of an encoder."""

    shape: Shape
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def stored(self, name: str, value: Any) -> str:
        """An initializer."""
        self.tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A node with one output of the same name."""
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    def linear(self, x: str, name: str, inputs: int, outputs: int) -> str:
        """A linear layer with a bias."""
        weight = self.random.standard_normal((inputs, outputs), np.float32) / np.float32(inputs**0.5)
        product = self.node("MatMul", [x, self.stored(f"{name}.weight", weight)], f"{name}.product")
        bias = 0.1 * self.random.standard_normal(outputs, np.float32)
        return self.node("Add", [product, self.stored(f"{name}.bias", bias)], f"{name}.out")

    def norm(self, x: str, name: str) -> str:
        """Layer normalization, unless the shape has none."""
        if not self.shape.norms:
            return x
        scale = self.stored(f"{name}.weight", np.ones(self.shape.width, np.float32))
        bias = self.stored(f"{name}.bias", np.zeros(self.shape.width, np.float32))
        return self.node("LayerNormalization", [x, scale, bias], f"{name}.out", axis=-1, epsilon=1e-12)

    def heads(self, x: str, name: str) -> str:
        """A projection as [batch, heads, position, head size]."""
        made = self.linear(x, name, self.shape.width, self.shape.width)
        split = self.node("Reshape", [made, "split"], f"{name}.split")
        return self.node("Transpose", [split], f"{name}.heads", perm=[0, 2, 1, 3])

    def layer(self, x: str, name: str) -> str:
        """Attention and a feed-forward block."""
        width = self.shape.width
        q, k, v = (self.heads(x, f"{name}.{part}") for part in "qkv")
        turned = self.node("Transpose", [k], f"{name}.turned", perm=[0, 1, 3, 2])
        product = self.node("MatMul", [q, turned], f"{name}.scores")
        scaled = self.node("Mul", [product, "scale"], f"{name}.scaled")
        masked = self.node("Add", [scaled, "bias"], f"{name}.masked")
        weights = self.node("Softmax", [masked], f"{name}.softmax", axis=-1)
        context = self.node("MatMul", [weights, v], f"{name}.context")
        back = self.node("Transpose", [context], f"{name}.back", perm=[0, 2, 1, 3])
        merged = self.node("Reshape", [back, "merge"], f"{name}.merged")
        out = self.linear(merged, f"{name}.o", width, width)
        x = self.norm(self.node("Add", [x, out], f"{name}.middle"), f"{name}.norm1")
        inner = self.linear(x, f"{name}.up", width, 4 * width)
        active = self.node("Mul", [inner, self.node("Sigmoid", [inner], f"{name}.gate")], f"{name}.active")
        down = self.linear(active, f"{name}.down", 4 * width, width)
        return self.norm(self.node("Add", [x, down], f"{name}.last"), f"{name}.norm2")

    def build(self) -> onnx.ModelProto:
        """`input_ids` and `attention_mask` to `last_hidden_state`."""
        shape = self.shape
        self.stored("split", np.array([0, 0, shape.heads, shape.width // shape.heads]))
        self.stored("merge", np.array([0, 0, shape.width]))
        self.stored("scale", np.float32((shape.width // shape.heads) ** -0.5))
        table = self.stored("words", self.random.standard_normal((shape.vocabulary, shape.width), np.float32))
        wide = self.node("Unsqueeze", ["attention_mask", self.stored("axes", np.array([1, 2]))], "wide")
        visible = self.node("Cast", [wide], "visible", to=TensorProto.FLOAT)
        gone = self.node("Sub", [self.stored("one", np.float32(1)), visible], "gone")
        self.node("Mul", [gone, self.stored("lowest", np.float32(-1e4))], "bias")
        x = self.norm(self.node("Gather", [table, "input_ids"], "embedded"), "embeddings.norm")
        for index in range(shape.layers):
            x = self.layer(x, f"layer.{index}")
        for index in range(shape.chain):
            x = self.node(("Neg", "Abs")[index % 2], [x], f"chain.{index}")
        self.node("Identity", [x], "last_hidden_state")
        axes = ["batch", "sequence"]
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, axes)
            for name in ("input_ids", "attention_mask")
        ]
        output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*axes, shape.width])
        graph = helper.make_graph(self.nodes, "encoder", inputs, [output], self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def make(path: Path, shape: Shape) -> None:
    """Write an encoder."""
    onnx.save(Encoder(shape).build(), path)
