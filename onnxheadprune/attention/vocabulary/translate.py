"""The original with new token ids: the reference for a model with a smaller vocabulary.

A Gather before it turns new ids into the original's, and one after it picks the logits of the tokens that are kept.
Nothing else is changed, so it shares nothing with the code that cuts tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, numpy_helper

from onnxheadprune.attention.masking import graph_of
from onnxheadprune.attention.vocabulary.ids import dtype_of
from onnxheadprune.attention.vocabulary.logits import Logits, Vocabulary
from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import MAIN, MARK, InsertNode
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.messages import copied, insert_nodes

KEPT = f"{MARK}_kept"
IDS = f"{MARK}_ids"
ALL = f"{MARK}_all_tokens"
OLD = f"{MARK}_old_{{}}"
"""The name of the original's id of each token behind a zero for what is no id, by the type of ids."""
ZERO, ONE = f"{MARK}_zero_{{}}", f"{MARK}_one_{{}}"
"""The names of these numbers, by the type of ids."""


def original_ids(name: str) -> str:
    """Return the name of an input with new ids after the translation to the original's ids."""
    return f"{name}/{IDS}"


def all_logits(name: str) -> str:
    """Return the name of an output before the kept tokens are picked from it."""
    return f"{name}/{ALL}"


def kept_ids(dtype: np.dtype[np.generic], width: int | None = None) -> str:
    """The name of the tensor with the original's id of each token.

    Args:
        width: the number of logits, where that is another than that of ids.
    """
    return f"{KEPT}_{dtype.name}" if width is None else f"{KEPT}_{dtype.name}_of_{width}"


def _picked(item: Logits, indices: str) -> InsertNode:
    """The node that picks the logits of the kept tokens."""
    return nodes.new(MAIN, "Gather", (all_logits(item.name), indices), item.name, axis=item.axis)


Pick: TypeAlias = Callable[[Logits, str], InsertNode]


def translated(
    view: GraphView, vocabulary: Vocabulary, kept: npt.NDArray[np.int64], pick: Pick = _picked
) -> ModelProto:
    """A copy of a model that takes new ids, with the logits of the kept tokens."""
    made = copied(view.model)
    stored: dict[str, npt.NDArray[np.generic]] = {}
    for name in vocabulary.inputs:
        for use in view.main.values[name].consumers:
            graph_of(made, use.node).node[use.node.position].input[use.input_index] = original_ids(name)
    for item in vocabulary.logits:
        indices, ids = indices_of(item, vocabulary.rows, kept)
        picking = pick(item, indices)
        if indices in picking.inputs:
            stored[indices] = ids
        _restrict(made, view, item, len(ids), picking)
    before: list[InsertNode] = []
    for name in vocabulary.inputs:
        dtype = dtype_of(view.main.values[name])
        stored |= constants(kept, dtype, view.main.opset)
        before += old_ids(MAIN, name, original_ids(name), dtype, view.main.opset)
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in stored.items())
    protos = [nodes.as_proto(node, view.main.opset) for node in before]
    insert_nodes(made.graph, {0: protos})
    return made


def constants(
    kept: npt.NDArray[np.int64], dtype: np.dtype[np.generic], opset: int
) -> dict[str, npt.NDArray[np.generic]]:
    """The tensors that `old_ids` reads, by their names."""
    if opset < nodes.COMPARES_INTEGERS:
        return {kept_ids(dtype): kept.astype(dtype)}
    numbers = {OLD: np.append(0, kept), ZERO: np.zeros((), np.int64), ONE: np.ones((), np.int64)}
    return {name.format(dtype.name): array.astype(dtype) for name, array in numbers.items()}


def old_ids(
    before: str, source: str, output: str, dtype: np.dtype[np.generic], opset: int
) -> list[InsertNode]:
    """The nodes that turn new ids into the original's; a negative number is no id and stays as it is."""
    if opset < nodes.COMPARES_INTEGERS:
        return [nodes.new(before, "Gather", (kept_ids(dtype), source), output, axis=0)]
    old, zero, one = (name.format(dtype.name) for name in (OLD, ZERO, ONE))
    # A comparison with 0 would look as if the model knew such numbers.
    shifted, place, found, rest = (f"{output}_{step}" for step in ("next", "place", "found", "rest"))
    return [
        nodes.new(before, "Add", (source, one), shifted),
        nodes.new(before, "Max", (shifted, zero), place),
        nodes.new(before, "Gather", (old, place), found, axis=0),
        nodes.new(before, "Min", (source, zero), rest),
        nodes.new(before, "Add", (found, rest), output),
    ]


def indices_of(item: Logits, rows: int, kept: npt.NDArray[np.int64]) -> tuple[str, npt.NDArray[np.int64]]:
    """The name and the content of the tensor with the columns that are kept: those of kept tokens, no padding."""
    width = None if item.width >= rows else item.width
    return kept_ids(np.dtype(np.int64), width), kept if width is None else kept[kept < width]


def _restrict(made: ModelProto, view: GraphView, item: Logits, tokens: int, picking: InsertNode) -> None:
    """Restrict an output to the kept tokens."""
    value, name = view.main.values[item.name], item.name
    assert value.producer is not None
    for use in value.consumers:
        graph_of(made, use.node).node[use.node.position].input[use.input_index] = all_logits(name)
    producer = graph_of(made, value.producer).node[value.producer.position]
    producer.output[value.output_index] = all_logits(name)
    made.graph.node.append(nodes.as_proto(picking))
    declared = next(info for info in made.graph.output if info.name == name)
    dims = declared.type.tensor_type.shape.dim
    # Exporters also declare other shapes than operators output.
    if item.axis < len(dims):
        dims[item.axis].Clear()
        dims[item.axis].dim_value = tokens
