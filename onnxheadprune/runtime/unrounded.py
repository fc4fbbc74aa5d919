"""Exact settings for weights packed in blocks: their products without rounded activations.

`com.microsoft.MatMulNBits` with `accuracy_level` 4 rounds activations to int8, block by block, before it multiplies.
That is a choice of speed and no part of the mathematics: two inputs that differ in the last bit may round to
neighbouring levels, so a right cut would look wrong by a whole level.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx import ModelProto, NodeProto

from onnxheadprune.model.bodies import bodies_of
from onnxheadprune.model.graph.facts import PACKS_BLOCKS
from onnxheadprune.model.load import LoadedModel

LEVEL = "accuracy_level"


def unrounded(model: LoadedModel) -> LoadedModel:
    """The model with MatMulNBits computing in the precision of its inputs; itself where it does so already.

    Args:
        model: in memory, or a structure; not changed.
    """
    if not any(map(_level, _packed(model.proto))):
        return model
    copy = ModelProto()
    copy.CopyFrom(model.proto)
    for node in _packed(copy):
        kept = [attribute for attribute in node.attribute if attribute.name != LEVEL]
        del node.attribute[:]
        node.attribute.extend(kept)
    return model.changed(copy)


def _level(node: NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == LEVEL), 0)


def _packed(model: ModelProto) -> Iterator[NodeProto]:
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        yield from (node for node in _all(nodes) if node in PACKS_BLOCKS)


def _all(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Nodes, and those in the bodies of control flow."""
    for node in nodes:
        yield node
        for graph in bodies_of(node):
            yield from _all(graph.node)
