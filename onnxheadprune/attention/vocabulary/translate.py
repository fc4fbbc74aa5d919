"""The original with new token ids: the reference for a model with a smaller vocabulary.

One Gather before it turns new ids into the original's, and one after it picks the logits of the tokens that are
kept. Nothing else is changed, so it shares nothing with the code that cuts tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, helper, numpy_helper

from onnxheadprune.attention.masking import graph_of
from onnxheadprune.attention.vocabulary.find import Vocabulary
from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import MAIN, MARK, InsertNode
from onnxheadprune.model.graph.view import GraphView

KEPT = f"{MARK}_kept"
IDS = f"{MARK}_ids"
ALL = f"{MARK}_all_tokens"


def original_ids(name: str) -> str:
    """Return the name of an input with new ids after the translation to the original's ids."""
    return f"{name}/{IDS}"


def all_logits(name: str) -> str:
    """Return the name of an output before the kept tokens are picked from it."""
    return f"{name}/{ALL}"


def kept_ids(dtype: np.dtype[np.generic]) -> str:
    """The name of the tensor with the original's id of each token."""
    return f"{KEPT}_{dtype.name}"


def _picked(name: str, axis: int) -> InsertNode:
    """The node that picks the logits of the kept tokens: output `name`, with tokens along `axis`."""
    return nodes.gather(MAIN, all_logits(name), kept_ids(np.dtype(np.int64)), axis, name)


Pick: TypeAlias = Callable[[str, int], InsertNode]


def translated(
    view: GraphView, vocabulary: Vocabulary, kept: npt.NDArray[np.int64], pick: Pick = _picked
) -> ModelProto:
    """A copy of a model that takes new ids, with the logits of the kept tokens.

    Args:
        view: an annotated view of the model.
        vocabulary: of the model.
        kept: the original's id of each new one.
        pick: makes the node that outputs logits.
    """
    made = ModelProto()
    made.CopyFrom(view.model)
    dtypes: set[np.dtype[Any]] = {np.dtype(np.int64)} if vocabulary.logits else set()
    dtypes |= {_dtype(view, name) for name in vocabulary.inputs}
    for dtype in sorted(dtypes, key=str):
        made.graph.initializer.append(numpy_helper.from_array(kept.astype(dtype), kept_ids(dtype)))
    for name in vocabulary.inputs:
        for use in view.main.values[name].consumers:
            graph_of(made, use.node).node[use.node.position].input[use.input_index] = original_ids(name)
    _restrict(made, view, vocabulary.logits, len(kept), pick)
    translations = [
        nodes.as_proto(nodes.gather(MAIN, kept_ids(_dtype(view, name)), name, 0, original_ids(name)))
        for name in vocabulary.inputs
    ]
    for node in translations:
        made.graph.node.insert(0, node)
    return made


def _dtype(view: GraphView, name: str) -> np.dtype[np.generic]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(view.main.values[name].elem_type))


def _restrict(made: ModelProto, view: GraphView, logits: Sequence[str], tokens: int, pick: Pick) -> None:
    """Restrict outputs to the kept tokens."""
    outputs: Mapping[str, int] = {info.name: index for index, info in enumerate(made.graph.output)}
    for name in logits:
        value = view.main.values[name]
        assert value.producer is not None and value.rank is not None
        for use in value.consumers:
            graph_of(made, use.node).node[use.node.position].input[use.input_index] = all_logits(name)
        graph_of(made, value.producer).node[value.producer.position].output[value.output_index] = all_logits(
            name
        )
        made.graph.node.append(nodes.as_proto(pick(name, value.rank - 1)))
        dims = made.graph.output[outputs[name]].type.tensor_type.shape.dim
        if dims:
            dims[-1].Clear()
            dims[-1].dim_value = tokens
