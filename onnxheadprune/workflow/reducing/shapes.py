"""Shapes that a graph computes from its inputs, written as the numbers that say the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from onnxheadprune.edit.extract import needed_nodes
from onnxheadprune.model.graph.dims import Dim, Shape
from onnxheadprune.workflow.reducing.values import viewed

Place: TypeAlias = tuple[str, str, int]
"""The operator and the first output of a node of the main graph, and which of its inputs."""


def computed_shapes(model: ModelProto) -> dict[Place, list[int]]:
    """Vectors of sizes that nodes read and other nodes compute, as a Reshape takes them.

    Args:
        model: with hollow tensors.
    """
    try:
        view = viewed(model)
    except Exception:
        # It may be the very failure that is to be shown.
        return {}
    found: dict[Place, list[int]] = {}
    for node in view.main.nodes:
        for index, value in enumerate(node.inputs):
            if index == 0 or value is None or value.holds_tensor or value.elements is None:
                continue
            if value.elem_type == TensorProto.INT64 and value.elements.ndim == 1:
                numbers = _as_numbers(list(value.elements), node.shape(0) or ())
                if numbers is not None:
                    found[node.op_type, node.proto.output[0], index] = numbers
    return found


def _as_numbers(sizes: list[Dim], shape: Shape) -> list[int] | None:
    """Sizes as a Reshape takes them: 0 keeps that of the input, and one -1 is what is left.

    >>> from onnxheadprune.model.graph.dims import symbol
    >>> batch = symbol("batch")
    >>> _as_numbers([batch, symbol("length"), 4, 8], (batch, 32, 12))
    [0, -1, 4, 8]

    Args:
        sizes: numbers and expressions.
        shape: of what is reshaped.

    Returns:
        The numbers; None if two sizes are not known.
    """
    numbers = [
        size if isinstance(size, int) else 0 if axis < len(shape) and shape[axis] == size else -1
        for axis, size in enumerate(sizes)
    ]
    return numbers if numbers.count(-1) <= 1 else None


def with_literals(model: ModelProto, found: Mapping[Place, list[int]]) -> ModelProto | None:
    """A copy in which nodes read numbers, without the nodes that nobody needs then; None if there are no numbers.

    Args:
        model: with hollow tensors.
        found: numbers by where they are read.
    """
    if not found:
        return None
    made = ModelProto()
    made.CopyFrom(model)
    nodes = {node.output[0]: node for node in made.graph.node if node.output}
    for (_, output, index), numbers in found.items():
        if output not in nodes:
            continue
        name = f"{output}_shape{index}"
        nodes[output].input[index] = name
        made.graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
    needed, _ = needed_nodes(made.graph, [info.name for info in made.graph.output])
    kept = [NodeProto.FromString(node.SerializeToString()) for node in needed]
    del made.graph.node[:]
    made.graph.node.extend(kept)
    return made
