"""A decoder as large as you like, with random weights in one file beside it. Made without torch, in little memory.

    python benchmarks/decoder.py OUT.onnx [--layers 12]

The shape is TinyLlama's: width 2048, 32 query heads in 4 groups, rotary positions, a key/value cache. A layer has
176 MB in float32; 12 layers make 2.6 GB, 42 make 7.9 GB.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save_model

ALIGNMENT = 4096
POOL = 2**22


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder."""

    layers: int = 12
    width: int = 2048
    heads: int = 32
    groups: int = 4
    inner: int = 5632
    vocabulary: int = 32000
    context: int = 2048

    @property
    def head(self) -> int:
        """Size of a head."""
        return self.width // self.heads


class Decoder:
    """Collects nodes, and writes weights to the data file as they are named."""

    def __init__(self, shape: Shape, data: BinaryIO) -> None:
        self.shape, self.data = shape, data
        self.nodes: list[Any] = []
        self.tensors: list[TensorProto] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        random = np.random.default_rng(0)
        self.pool = (0.02 * random.standard_normal(POOL)).astype(np.float32)

    def weight(self, name: str, *dims: int) -> str:
        """A weight in the data file."""
        offset = -(-self.data.tell() // ALIGNMENT) * ALIGNMENT
        self.data.seek(offset)
        left, start = int(np.prod(dims)), (len(self.tensors) * 7919) % POOL
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims)
        tensor.data_location = TensorProto.EXTERNAL
        size = left * 4
        while left:
            piece = self.pool[start : start + left]
            self.data.write(piece.tobytes())
            left, start = left - piece.size, 0
        for key, value in (("location", Path(self.data.name).name), ("offset", offset), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        return name

    def constant(self, name: str, value: Any) -> str:
        """A small initializer."""
        self.tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A node with one output of the same name."""
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    def norm(self, x: str, name: str) -> str:
        """Root-mean-square normalisation."""
        square = self.node("Mul", [x, x], f"{name}/square")
        mean = self.node("ReduceMean", [square], f"{name}/mean", axes=[-1], keepdims=1)
        root = self.node("Sqrt", [self.node("Add", [mean, "epsilon"], f"{name}/sum")], f"{name}/root")
        scaled = self.node("Div", [x, root], f"{name}/scaled")
        return self.node(
            "Mul", [scaled, self.constant(f"{name}.weight", np.ones(self.shape.width, np.float32))], name
        )

    def rotary(self, x: str, name: str) -> str:
        """Rotary positions."""
        left = self.node("Slice", [x, "zero", "half", "last"], f"{name}/left")
        right = self.node("Slice", [x, "half", "end", "last"], f"{name}/right")
        turned = self.node(
            "Concat", [self.node("Neg", [right], f"{name}/neg"), left], f"{name}/turned", axis=-1
        )
        one = self.node("Mul", [x, "cos"], f"{name}/cos")
        return self.node("Add", [one, self.node("Mul", [turned, "sin"], f"{name}/sin")], name)

    def heads(self, x: str, name: str, count: int) -> str:
        """Splits the last axis into heads."""
        split = self.node("Reshape", [x, f"split{count}"], f"{name}/split")
        return self.node("Transpose", [split], f"{name}/heads", perm=[0, 2, 1, 3])

    def cached(self, value: str, name: str) -> str:
        """Appends to the cache, and repeats each group for its query heads."""
        past = f"past.{name}"
        dims = ["batch", self.shape.groups, "past", self.shape.head]
        self.inputs.append(helper.make_tensor_value_info(past, TensorProto.FLOAT, dims))
        present = self.node("Concat", [past, value], f"present.{name}", axis=2)
        dims = ["batch", self.shape.groups, "total", self.shape.head]
        self.outputs.append(helper.make_tensor_value_info(present, TensorProto.FLOAT, dims))
        wide = self.node("Unsqueeze", [present, "two"], f"{name}/wide")
        repeated = self.node("Expand", [wide, "repeat"], f"{name}/repeated")
        merged = [0, self.shape.heads, -1, self.shape.head]
        return self.node("Reshape", [repeated, self.constant(f"{name}/target", merged)], f"{name}/all")

    def layer(self, x: str, index: int) -> str:
        """Attention and a gated feed-forward block."""
        shape, name = self.shape, f"layers.{index}"
        kv = shape.groups * shape.head
        normed = self.norm(x, f"{name}.input_norm")
        products = {
            letter: self.node(
                "MatMul",
                [normed, self.weight(f"{name}.attn.{letter}.weight", shape.width, size)],
                f"{name}.{letter}",
            )
            for letter, size in (("q", shape.width), ("k", kv), ("v", kv))
        }
        q = self.rotary(self.heads(products["q"], f"{name}.q", shape.heads), f"{name}.q_rotary")
        k = self.rotary(self.heads(products["k"], f"{name}.k", shape.groups), f"{name}.k_rotary")
        keys = self.cached(k, f"{index}.key")
        values = self.cached(self.heads(products["v"], f"{name}.v", shape.groups), f"{index}.value")
        turned = self.node("Transpose", [keys], f"{name}.keys", perm=[0, 1, 3, 2])
        scores = self.node(
            "Mul", [self.node("MatMul", [q, turned], f"{name}.product"), "scale"], f"{name}.scores"
        )
        soft = self.node("Softmax", [scores], f"{name}.soft", axis=-1)
        context = self.node("MatMul", [soft, values], f"{name}.context")
        back = self.node("Transpose", [context], f"{name}.back", perm=[0, 2, 1, 3])
        merged = self.node("Reshape", [back, "merge"], f"{name}.merged")
        o = self.node(
            "MatMul",
            [merged, self.weight(f"{name}.attn.o.weight", shape.width, shape.width)],
            f"{name}.attn.o",
        )
        x = self.node("Add", [x, o], f"{name}.middle")
        normed = self.norm(x, f"{name}.post_norm")
        gate, up = (
            self.node(
                "MatMul",
                [normed, self.weight(f"{name}.mlp.{part}.weight", shape.width, shape.inner)],
                f"{name}.{part}",
            )
            for part in ("gate", "up")
        )
        silu = self.node("Mul", [gate, self.node("Sigmoid", [gate], f"{name}.sigmoid")], f"{name}.silu")
        inner = self.node("Mul", [silu, up], f"{name}.inner")
        down = self.node(
            "MatMul",
            [inner, self.weight(f"{name}.mlp.down.weight", shape.inner, shape.width)],
            f"{name}.down",
        )
        return self.node("Add", [x, down], f"{name}.out")

    def build(self) -> Any:
        """The whole model."""
        shape = self.shape
        half = shape.head // 2
        angles = np.outer(np.arange(shape.context), 10000.0 ** (-np.arange(half) / half))
        for name, value in (("cos", np.cos(angles)), ("sin", np.sin(angles))):
            table = np.concatenate([value, value], axis=1).astype(np.float32)
            rows = self.node(
                "Gather", [self.constant(f"{name}_table", table), "position_ids"], f"{name}_rows"
            )
            self.node("Unsqueeze", [rows, "one"], name)
        self.constant("epsilon", np.float32(1e-5))
        self.constant("scale", np.float32(shape.head**-0.5))
        for name, number in (
            ("zero", 0),
            ("one", 1),
            ("two", 2),
            ("half", half),
            ("end", 2**31),
            ("last", -1),
        ):
            self.constant(name, np.array([number]))
        for count in {shape.heads: None, shape.groups: None}:
            self.constant(f"split{count}", np.array([0, 0, count, shape.head]))
        self.constant("merge", np.array([0, 0, shape.width]))
        self.constant("repeat", np.array([1, 1, shape.heads // shape.groups, 1, 1]))
        for name in ("input_ids", "position_ids"):
            self.inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]))
        x = self.node(
            "Gather", [self.weight("embed.weight", shape.vocabulary, shape.width), "input_ids"], "embedded"
        )
        for index in range(shape.layers):
            x = self.layer(x, index)
        head = self.weight("lm_head.weight", shape.width, shape.vocabulary)
        self.node("MatMul", [self.norm(x, "final_norm"), head], "logits")
        dims = ["batch", "sequence", shape.vocabulary]
        self.outputs.insert(0, helper.make_tensor_value_info("logits", TensorProto.FLOAT, dims))
        graph = helper.make_graph(self.nodes, "decoder", self.inputs, self.outputs, self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def make(path: Path, shape: Shape) -> None:
    """Writes a decoder and its data file `<path>.bin`."""
    with path.with_name(f"{path.name}.bin").open("wb") as data:
        save_model(Decoder(shape, data).build(), path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    for name, value in vars(Shape()).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = vars(parser.parse_args())
    make(given.pop("out"), Shape(**given))
