"""Builds the graph of a `Blueprint` with onnx-graphsurgeon, the way exporters spell it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ModelProto

from tests.attention.blueprint import Blueprint
from tests.liveness.masks import Array


class Net:
    """A gs.Graph under construction; every method adds one node and returns its output."""

    def __init__(self, plan: Blueprint) -> None:
        self.plan = plan
        self.graph = gs.Graph(opset=plan.opset, ir_version=10, name="attention")
        self.rng = np.random.default_rng(7)
        self.feed: dict[str, Array] = {}
        self.count = 0

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def input(self, name: str, shape: Sequence[int], letters: str) -> Any:
        known = [
            f"dim_{c}" if c in "bsp" and self.plan.symbolic else n
            for c, n in zip(letters, shape, strict=True)
        ]
        tensor = gs.Variable(name, dtype=np.float32, shape=known)
        self.graph.inputs.append(tensor)
        self.feed[name] = self.random(*shape)
        return tensor

    def random(self, *shape: int) -> Array:
        return self.rng.uniform(-1, 1, shape).astype(np.float32)

    def weight(self, stem: str, *shape: int) -> Any:
        return gs.Constant(self.name(stem), self.random(*shape))

    def ints(self, *numbers: int) -> Any:
        return gs.Constant(self.name("ints"), np.array(numbers, dtype=np.int64))

    def op(self, op: str, *inputs: Any, outputs: int = 1, **attrs: Any) -> Any:
        names = [self.name(op) for _ in range(outputs)]
        made = self.graph.layer(
            op=op, name=self.name(f"n_{op}"), inputs=list(inputs), outputs=names, attrs=attrs
        )
        return made[0] if outputs == 1 else made

    def reshape(self, data: Any, target: Sequence[int | str]) -> Any:
        """A target of numbers and of "b" and "s", spelled as the blueprint says."""
        spelled = self.plan.target
        numbers = {"b": self.plan.B, "s": self.plan.S}
        if spelled == "shape":
            shape = self.op("Shape", data)
            axes = {"b": 0, "s": 1}
            pieces = [self.piece(shape, axes[n]) if isinstance(n, str) else self.ints(n) for n in target]
            return self.op("Reshape", data, self.op("Concat", *pieces, axis=0))
        replaced = {"constant": numbers, "zero": {"b": 0, "s": 0}, "minus": {"b": 0, "s": -1}}[spelled]
        return self.op(
            "Reshape", data, self.ints(*(replaced[n] if isinstance(n, str) else n for n in target))
        )

    def piece(self, shape: Any, axis: int) -> Any:
        scalar = self.op("Gather", shape, gs.Constant(self.name("axis"), np.array(axis)), axis=0)
        return self.op("Unsqueeze", scalar, self.ints(0))

    def linear(self, data: Any, stem: str, rows: int, columns: int) -> Any:
        """[b, s, rows] -> [b, s, columns]."""
        bias = self.weight(f"{stem}_bias", columns) if self.plan.bias else None
        if self.plan.gemm:
            flat = self.op("Reshape", data, self.ints(-1, rows))
            inputs = [flat, self.weight(stem, columns, rows)] + ([bias] if bias is not None else [])
            made = self.op("Gemm", *inputs, transB=1)
            if self.plan.target == "shape":
                shape = self.op("Shape", data)
                pieces = [self.piece(shape, 0), self.piece(shape, 1), self.ints(columns)]
                return self.op("Reshape", made, self.op("Concat", *pieces, axis=0))
            if self.plan.symbolic:
                # The exporter cannot write two unknown dimensions: it takes them from the input.
                head = self.op("Slice", self.op("Shape", data), self.ints(0), self.ints(2))
                return self.op("Reshape", made, self.op("Concat", head, self.ints(columns), axis=0))
            return self.op("Reshape", made, self.ints(-1, self.plan.S, columns))
        made = self.op("MatMul", data, self.weight(stem, rows, columns))
        return self.op("Add", made, bias) if bias is not None else made

    def export(self, outputs: Sequence[Any]) -> ModelProto:
        for tensor in outputs:
            tensor.dtype = np.dtype(np.float32)
        self.graph.outputs = list(outputs)
        model: ModelProto = gs.export_onnx(self.graph)
        return model
