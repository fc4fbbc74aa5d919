"""A decoder as large as you like, with random weights in one file beside it. Made without torch, in little memory.

    python benchmarks/decoder.py OUT.onnx [--layers 12] [--experts 8] [--kind int4]

The shape is TinyLlama's: width 2048, 32 query heads in 4 groups, rotary positions, a key/value cache. A layer has
176 MB in float32; 12 layers make 2.6 GB, 42 make 7.9 GB. Weights are float32, float16, or int4 in blocks of 32
(`MatMulNBits`, activations and the table of words in float32); experts are one operator (`MoE`, `QMoE`), two a token.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper, save_model

ALIGNMENT = 4096
POOL = 2**22
BLOCK = 32
"""Inputs with one scale, in int4."""
KINDS = ("float32", "float16", "int4")
MICROSOFT = "com.microsoft"


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
    experts: int = 0
    kind: str = "float32"

    @property
    def floats(self) -> type[np.floating[Any]]:
        """The type of activations."""
        return np.float16 if self.kind == "float16" else np.float32

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
        self.pool = (0.02 * random.standard_normal(POOL)).astype(shape.floats)
        self.levels = random.integers(0, 256, POOL, np.uint8)
        self.scales = np.full(POOL, 0.02 / 4.6, np.float32)

    @property
    def type(self) -> int:
        """The type of activations, as ONNX has it."""
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(self.shape.floats)))

    def weight(self, name: str, *dims: int, pool: npt.NDArray[Any] | None = None) -> str:
        """A weight in the data file."""
        pool = self.pool if pool is None else pool
        offset, size = -(-self.data.tell() // ALIGNMENT) * ALIGNMENT, math.prod(dims) * pool.itemsize
        self.data.seek(offset)
        self.fill(pool, math.prod(dims))
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(pool.dtype), dims=dims)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", Path(self.data.name).name), ("offset", offset), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        return name

    def fill(self, pool: npt.NDArray[Any], left: int) -> None:
        """Writes numbers to the data file."""
        start = (len(self.tensors) * 7919) % POOL
        while left:
            piece = pool[start : start + left]
            self.data.write(piece.tobytes())
            left, start = left - piece.size, 0

    def in_blocks(self, name: str, *dims: int) -> list[str]:
        """Weights in four bits, of which the last axis is that of inputs, and a scale of each block of inputs."""
        *rows, inputs = dims
        blocks = inputs // BLOCK
        packed = (*rows, inputs // 2) if len(rows) > 1 else (*rows, blocks, BLOCK // 2)
        return [
            self.weight(name, *packed, pool=self.levels),
            self.weight(f"{name}.scales", *rows, blocks, pool=self.scales),
        ]

    def product(self, x: str, output: str, name: str, inputs: int, outputs: int) -> str:
        """A linear layer without bias."""
        if self.shape.kind != "int4":
            return self.node("MatMul", [x, self.weight(name, inputs, outputs)], output)
        given = [x, *self.in_blocks(name, outputs, inputs)]
        sizes = {"K": inputs, "N": outputs, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
        return self.node("MatMulNBits", given, output, domain=MICROSOFT, **sizes)

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
            "Mul",
            [scaled, self.constant(f"{name}.weight", np.ones(self.shape.width, self.shape.floats))],
            name,
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
        self.inputs.append(helper.make_tensor_value_info(past, self.type, dims))
        present = self.node("Concat", [past, value], f"present.{name}", axis=2)
        dims = ["batch", self.shape.groups, "total", self.shape.head]
        self.outputs.append(helper.make_tensor_value_info(present, self.type, dims))
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
            letter: self.product(
                normed, f"{name}.{letter}", f"{name}.attn.{letter}.weight", shape.width, size
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
        o = self.product(merged, f"{name}.attn.o", f"{name}.attn.o.weight", shape.width, shape.width)
        x = self.node("Add", [x, o], f"{name}.middle")
        normed = self.norm(x, f"{name}.post_norm")
        after = self.mixture(normed, name) if shape.experts else self.feed_forward(normed, name)
        return self.node("Add", [x, after], f"{name}.out")

    def feed_forward(self, normed: str, name: str) -> str:
        """A gated block."""
        shape = self.shape
        gate, up = (
            self.product(normed, f"{name}.{part}", f"{name}.mlp.{part}.weight", shape.width, shape.inner)
            for part in ("gate", "up")
        )
        silu = self.node("Mul", [gate, self.node("Sigmoid", [gate], f"{name}.sigmoid")], f"{name}.silu")
        inner = self.node("Mul", [silu, up], f"{name}.inner")
        return self.product(inner, f"{name}.down", f"{name}.mlp.down.weight", shape.inner, shape.width)

    def mixture(self, normed: str, name: str) -> str:
        """Gated experts, of which the router chooses two for each token."""
        shape = self.shape
        router = self.weight(f"{name}.router.weight", shape.width, shape.experts)
        tokens = self.node("Reshape", [normed, "tokens"], f"{name}.tokens")
        scores = self.node("MatMul", [tokens, router], f"{name}.router")
        given, sizes = [tokens, scores], {"k": 2, "normalize_routing_weights": 1}
        sizes |= {"activation_type": "swiglu", "swiglu_fusion": 1}
        for part, dims in (("up", (2 * shape.inner, shape.width)), ("down", (shape.width, shape.inner))):
            stored = f"{name}.experts.{part}.weight", shape.experts, *dims
            given += [*(self.in_blocks(*stored) if shape.kind == "int4" else [self.weight(*stored)]), ""]
        if shape.kind == "int4":
            sizes |= {"expert_weight_bits": 4, "block_size": BLOCK}
        op_type = "QMoE" if shape.kind == "int4" else "MoE"
        mixed = self.node(op_type, given[:-1], f"{name}.experts", domain=MICROSOFT, **sizes)
        shape_of = self.node("Shape", [normed], f"{name}.shape")
        return self.node("Reshape", [mixed, shape_of], f"{name}.mixed")

    def build(self) -> Any:
        """The whole model."""
        shape = self.shape
        half = shape.head // 2
        angles = np.outer(np.arange(shape.context), 10000.0 ** (-np.arange(half) / half))
        for name, value in (("cos", np.cos(angles)), ("sin", np.sin(angles))):
            table = np.concatenate([value, value], axis=1).astype(shape.floats)
            rows = self.node(
                "Gather", [self.constant(f"{name}_table", table), "position_ids"], f"{name}_rows"
            )
            self.node("Unsqueeze", [rows, "one"], name)
        self.constant("epsilon", shape.floats(1e-5))
        self.constant("scale", shape.floats(shape.head**-0.5))
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
        if shape.experts:
            self.constant("tokens", np.array([-1, shape.width]))
        self.constant("merge", np.array([0, 0, shape.width]))
        self.constant("repeat", np.array([1, 1, shape.heads // shape.groups, 1, 1]))
        for name in ("input_ids", "position_ids"):
            self.inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]))
        x = self.node(
            "Gather", [self.weight("embed.weight", shape.vocabulary, shape.width), "input_ids"], "embedded"
        )
        for index in range(shape.layers):
            x = self.layer(x, index)
        normed = self.norm(x, "final_norm")
        self.product(normed, "logits", "lm_head.weight", shape.width, shape.vocabulary)
        dims = ["batch", "sequence", shape.vocabulary]
        self.outputs.insert(0, helper.make_tensor_value_info("logits", self.type, dims))
        graph = helper.make_graph(self.nodes, "decoder", self.inputs, self.outputs, self.tensors)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)


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
        choices = KINDS if name == "kind" else None
        parser.add_argument(f"--{name}", type=type(value), default=value, choices=choices)
    given = vars(parser.parse_args())
    make(given.pop("out"), Shape(**given))
