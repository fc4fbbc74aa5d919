"""Builds the graph of a `Blueprint`, the way exporters spell it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, ValueInfoProto

from onnxheadprune.edit.submodel import read_by
from tests.attention.blueprint import Blueprint
from tests.graph_builder import GraphBuilder
from tests.liveness.masks import Array


class Net(GraphBuilder):
    """A graph with inputs for a feed, and parts that are spelled as a blueprint says."""

    def __init__(self, plan: Blueprint) -> None:
        super().__init__(seed=7)
        self.plan = plan
        self.inputs: list[ValueInfoProto] = []
        self.feed: dict[str, Array] = {}

    def input(self, name: str, shape: Sequence[int], letters: str) -> str:
        known = [
            f"dim_{c}" if c in "bsp" and self.plan.symbolic else n
            for c, n in zip(letters, shape, strict=True)
        ]
        self.inputs.append(self.info(name, known))
        self.feed[name] = self.random(*shape)
        return name

    def random(self, *shape: int) -> Array:
        return self.rng.uniform(-1, 1, shape).astype(np.float32)

    def weight(self, name: str, *shape: int) -> str:
        return self.stored(name, self.random(*shape))

    def stored(self, stem: str, value: Any) -> str:
        """A tensor under a new name."""
        return self.constant(self.name(stem), value)

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
        scalar = self.op("Gather", shape, self.stored("axis", np.array(axis)), axis=0)
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

    def export(self, outputs: Sequence[str]) -> ModelProto:
        """The model with these outputs, without tensors that no node reads."""
        read = {name for node in self.nodes for name in read_by(node)}
        self.initializers = [tensor for tensor in self.initializers if tensor.name in read]
        return self.model(self.inputs, [self.info(name, None) for name in outputs], self.plan.opset)
