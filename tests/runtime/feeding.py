"""Graphs for tests of made-up inputs: with given inputs, and with inputs that no name explains."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.generate import FeedMaker
from tests.graph_builder import GraphBuilder

I64, F32, BOOL = TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL


def graph_with(*inputs: tuple[str, int, list[Any]]) -> ModelProto:
    """A model with these inputs whose output is a constant; it runs on any feed."""
    toy = GraphBuilder()
    toy.node("Identity", [toy.constant("zero", np.zeros(1, dtype=np.float32))], "y")
    infos = [toy.info(name, shape, elem_type) for name, elem_type, shape in inputs]
    return toy.model(infos, [toy.info("y", [1])])


def feeds_of(model: ModelProto, seed: int = 0) -> list[dict[str, Any]]:
    """The first candidate of every case."""
    maker = FeedMaker(view_of(model), seed)
    return [next(maker.candidates(case))[0] for case in maker.cases]


def renamed(model: ModelProto) -> ModelProto:
    """The same model whose inputs are called x0, x1, ..., also inside bodies."""
    made = ModelProto()
    made.CopyFrom(model)
    stored = {tensor.name for tensor in made.graph.initializer}
    inputs = [item for item in made.graph.input if item.name not in stored]
    names = {item.name: f"x{number}" for number, item in enumerate(inputs)}
    for item in inputs:
        item.name = names[item.name]
    _rename(made.graph, names)
    return made


def _rename(graph: GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _rename(attribute.g, names)
