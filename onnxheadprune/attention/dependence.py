"""The inputs that outputs depend on: an output computed from tokens or features still depends on them after a cut.

A comparison of two graphs that knows nothing of sites, streams and masks: where the cut and its reference are wrong by
the same rules, this still shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from onnx import GraphProto, ModelProto, NodeProto

from onnxheadprune.edit import apply
from onnxheadprune.edit.edits import AddConstant, DropTensor, Edit, SetDim, SetMetadata, SliceTensor
from onnxheadprune.model.bodies import bodies_of
from onnxheadprune.model.graph.operator import DRAWS_NORMAL, OBSERVES, is_a, kind
from onnxheadprune.model.graph.view import GraphView, Use
from onnxheadprune.runtime.feeds.inputs import Role, graph_inputs

Inputs: TypeAlias = frozenset[str]
Reads: TypeAlias = frozenset[tuple[int, int]]
"""Nodes by their identity, each with the position of an input."""
NOTHING: Inputs = frozenset()
_CONTENT = (Role.IDS, Role.PIXELS, Role.FLOATS)
"""The roles of inputs that hold content: tokens, images, features. Masks, positions and lengths hold none."""
_SHOWS_NO_CONTENT = OBSERVES | DRAWS_NORMAL | kind("RandomUniform", "RandomUniformLike")
"""They read the shape of their input at most."""
_OF_TENSORS = (SliceTensor, AddConstant, DropTensor, SetDim, SetMetadata)
"""Edits that change no edge of the graph."""


def lost_content(
    before: GraphView, after: ModelProto, silent: Iterable[Use] = ()
) -> Iterator[tuple[str, str]]:
    """Yield the outputs of a pruned model that no longer depend on what they were computed of, each with an input.

    Token ids and images must still be read, each of them, and of features one: encoder states, biases and rotary
    tables may go with the attention that reads them. So may masks, positions and caches, and an input or output that
    the pruned model does not have is not asked for.

    Args:
        before: the original; functions are inlined in both.
        silent: reads of contexts whose units are all removed. What an output depends on through them alone may go.
    """
    ended = frozenset((id(use.node.proto), use.input_index) for use in silent)
    known, still = dependence(before.model.graph, ended), dependence(after.graph)
    there = {info.name for info in after.graph.input}
    fewer = [name for name, inputs in known.items() if name in still and not inputs & there <= still[name]]
    inputs = graph_inputs(before) if fewer else ()
    for output in fewer:
        names = known[output] & there
        content = [
            item for item in inputs if item.name in names and item.role in _CONTENT and not item.is_cache
        ]
        lost = [item for item in content if item.name not in still[output]]
        left = len(content) > len(lost)
        yield from ((output, item.name) for item in lost if not (left and item.role is Role.FLOATS))


def rewired(model: ModelProto, edits: Iterable[Edit]) -> ModelProto:
    """A model without its stored tensors, with the edits carried out that change its edges."""
    bare = ModelProto()
    bare.opset_import.extend(model.opset_import)
    _copy_edges(model.graph, bare.graph)
    return apply.apply_edits((edit for edit in edits if not isinstance(edit, _OF_TENSORS)), bare)


def _copy_edges(graph: GraphProto, bare: GraphProto) -> None:
    for info in graph.input:
        bare.input.add(name=info.name)
    for info in graph.output:
        bare.output.add(name=info.name)
    for node in graph.node:
        made = bare.node.add(op_type=node.op_type, domain=node.domain, input=node.input, output=node.output)
        for item in node.attribute:
            if item.HasField("g"):
                _copy_edges(item.g, made.attribute.add(name=item.name, type=item.type).g)


def dependence(
    graph: GraphProto, ended: Reads = frozenset(), around: Mapping[str, Inputs] | None = None
) -> dict[str, Inputs]:
    """The inputs whose contents each output of a graph depends on, as far as its edges tell.

    Args:
        ended: reads that do not count.
        around: the inputs that the values around a body depend on, and its own inputs; None for a main graph.
    """
    found = dict(around or {})
    if around is None:
        stored = {tensor.name for tensor in graph.initializer}
        found |= {info.name: frozenset({info.name}) for info in graph.input if info.name not in stored}
    for node in graph.node:
        found |= _outputs(node, found, ended)
    return {info.name: found.get(info.name, NOTHING) for info in graph.output}


def _outputs(node: NodeProto, known: Mapping[str, Inputs], ended: Reads) -> dict[str, Inputs]:
    if node in _SHOWS_NO_CONTENT:
        return dict.fromkeys(node.output, NOTHING)
    read = node.input[:1] if is_a(node, "CastLike") else node.input
    own = NOTHING.union(
        *(known.get(name, NOTHING) for index, name in enumerate(read) if (id(node), index) not in ended)
    )
    bodies = [*bodies_of(node)]
    if is_a(node, "If"):
        branches = [list(dependence(body, ended, known).values()) for body in bodies]
        return {name: own.union(*each) for name, *each in zip(node.output, *branches, strict=True)}
    for body in bodies:
        inner = {**known, **{info.name: own for info in body.input}}
        own = own.union(*dependence(body, ended, inner).values())
    return dict.fromkeys(node.output, own)
