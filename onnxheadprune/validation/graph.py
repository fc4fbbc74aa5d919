"""Comparison of the pruned model's graph with the expected one, whatever its values and nodes are called.

The plan is applied to the original once more. Every value of both graphs then has a digest: of the operator, its
attributes with defaults, and the digests of its inputs, down to the bytes of stored tensors and the names of graph
inputs. Two values with one digest are computed alike, for any input. Names, the order of nodes, Identity nodes, and
whether a tensor is an initializer or a Constant node play no part. What bodies declare is in their digests; what the
main graph declares is compared on its own (`declarations`).

Doc strings: exporters write stack traces of each node there, which may be far more than the model itself.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import onnx.defs
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    ValueInfoProto,
    numpy_helper,
)

from onnxheadprune.edit import apply
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.errors import HeadPruneError, RefusedError
from onnxheadprune.model.bodies import graphs_in, nodes_of_model, stored_tensor
from onnxheadprune.model.graph.dims import Shape
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.messages import copied
from onnxheadprune.model.storage.reading import Opened, blocks
from onnxheadprune.model.storage.tensors import cuts_of, dims_before, is_outside, span_of
from onnxheadprune.model.tensors import array_of, cut
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.deterministic import label, random_nodes
from onnxheadprune.validation.declarations import Declarations
from onnxheadprune.validation.result import LISTED, Likeness

if TYPE_CHECKING:
    from onnxheadprune.fusion.result import FuseMode

FUSED: tuple[FuseMode, ...] = ("contrib", "onnx")
Digest: TypeAlias = bytes
MUCH = 2**20
"""Characters that are worth a copy of the model."""


def undocumented(model: ModelProto) -> ModelProto:
    """A copy without the doc strings of nodes, which nothing reads; the model itself if they are short."""
    if sum(len(node.doc_string) for node in nodes_of_model(model)) < MUCH:
        return model
    copy = copied(model)
    for node in nodes_of_model(copy):
        node.ClearField("doc_string")
    return copy


def compared(
    original: LoadedModel, pruned: LoadedModel, plan: PrunePlan, name: str, fused: bool
) -> tuple[ModelProto, Likeness]:
    """The expected model, and how far the pruned one is that.

    Args:
        original: the model before the cut, with refitted numbers where the pruned model has them.
    """
    theirs = _Digests(pruned, _streamed)
    best: tuple[ModelProto, Likeness] | None = None
    for candidate in _candidates(original, plan, name, fused):
        found = _likeness(_Digests(original.changed(candidate), _in_memory), theirs, original.proto)
        if best is None or found.identical or found.same > best[1].same:
            best = candidate, found
        if found.identical:
            break
    assert best is not None
    return best


def _candidates(original: LoadedModel, plan: PrunePlan, name: str, fused: bool) -> Iterator[ModelProto]:
    """The cut, and the cut with fused attention where that was asked for."""
    made = apply.apply_plan(plan, original.proto)
    yield made
    if not fused:
        return
    from onnxheadprune.fusion.fuse import fuse

    for mode in FUSED:
        try:
            yield fuse(made, mode, name)[0]
        except RefusedError:
            continue


def _likeness(ours: _Digests, theirs: _Digests, original: ModelProto) -> Likeness:
    """Compare two graphs of the same inputs and outputs."""
    inside = [*_opsets(ours.model.proto, theirs.model.proto), *_first(ours, theirs)]
    if not inside and ours.outputs != theirs.outputs:
        inside = ["outputs are not the planned values"]
    declared = Declarations(ours.model.proto, theirs.model.proto, ours.sizes)
    outside = [*declared.interface(), *declared.between(ours.digests, theirs.digests)]
    known = ours.nodes.keys()
    stored = {name for graph in graphs_in(original.graph) for name in _stored(graph)}
    drawn = Counter(node.op_type for node in ours.random)
    differences = [*outside[:LISTED], *inside, *outside[LISTED:]]
    return Likeness(
        sum(map(len, theirs.nodes.values())),
        sum(len(found) for digest, found in theirs.nodes.items() if digest in known),
        sum(len(found) for digest, found in theirs.tensors.items() if digest in ours.tensors),
        tuple(differences[:LISTED]),
        len(differences),
        len(outside),
        declared.fixed,
        tuple(_altered(ours, theirs, stored)) if inside else (),
        tuple(_more(drawn, theirs.random)),
    )


def _opsets(ours: ModelProto, theirs: ModelProto) -> Iterator[str]:
    used = {_domain(node.domain) for graph in graphs_in(theirs.graph) for node in graph.node}
    wanted, found = (
        {
            domain: sorted(item.version for item in model.opset_import if _domain(item.domain) == domain)
            for domain in used
        }
        for model in (ours, theirs)
    )
    for domain in sorted(used):
        if wanted[domain] and wanted[domain] != found[domain]:
            before, after = (" and ".join(map(str, it[domain])) or "none" for it in (wanted, found))
            yield f"opset {after} of {domain or 'ai.onnx'} in place of {before}"


def _first(ours: _Digests, theirs: _Digests) -> Iterator[str]:
    """Yield tensors and nodes that are not the expected ones, though all that they read is; and those that lack."""
    names = {name for listed in ours.tensors.values() for name in listed}
    for digest, listed in theirs.tensors.items():
        if digest not in ours.tensors and any(name in theirs.read for name in listed):
            what = "holds other numbers than planned" if listed[0] in names else "is not planned"
            yield f"the stored tensor {listed[0]} {what}"
    for whose, others, what in (
        (theirs, ours, "is not planned"),
        (ours, theirs, "is planned and missing"),
    ):
        if whose is ours and ours.outputs == theirs.outputs:
            break  # What feeds no output may be missing.
        for digest, nodes in whose.nodes.items():
            if digest not in others.nodes and others.values >= whose.inputs[digest]:
                yield from (f"{label(node)} {what}" for node in nodes)


def _altered(ours: _Digests, theirs: _Digests, stored: Collection[str]) -> Iterator[str]:
    """Yield tensors of the original that keep their name, and hold other bytes than planned."""
    wanted: dict[str, set[Digest]] = {}
    for digest, names in ours.tensors.items():
        for name in names:
            wanted.setdefault(name, set()).add(digest)
    for digest, names in theirs.tensors.items():
        yield from (name for name in names if name in stored and digest not in wanted.get(name, {digest}))


def _more(known: Counter[str], nodes: Iterable[NodeProto]) -> Iterator[str]:
    """Yield nodes of which there are more than known ones of their operator."""
    left = Counter(known)
    for node in nodes:
        left[node.op_type] -= 1
        if left[node.op_type] < 0:
            yield label(node)


Bytes: TypeAlias = Callable[[TensorProto, LoadedModel], Iterator[bytes]]
"""A reader of a tensor's raw data in a file."""


def _streamed(tensor: TensorProto, model: LoadedModel) -> Iterator[bytes]:
    """As it is written: a block at a time."""
    with Opened(model.sources) as opened:
        yield from blocks(tensor, opened)


def _in_memory(tensor: TensorProto, model: LoadedModel) -> Iterator[bytes]:
    """Cut in memory: another way than the one by which files are written."""
    cuts = cuts_of(tensor)
    if not cuts:
        yield from _streamed(tensor, model)
        return
    with Opened(model.sources) as opened:
        data = opened.read(span_of(tensor))
    made = TensorProto(data_type=tensor.data_type, dims=dims_before(tensor), raw_data=data)
    for selection in cuts:
        cut(made, selection)
    yield made.raw_data


@dataclass(eq=False)
class _Scope:
    """The values of one graph, and the graph around it."""

    parent: _Scope | None = None
    known: dict[str, Digest] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        return 0 if self.parent is None else self.parent.depth + 1

    def find(self, name: str) -> Digest | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.known:
                return scope.known[name]
            scope = scope.parent
        return None


class _Digests:
    """The digests of a model.

    Attributes:
        digests: of the values of the main graph, by name.
        outputs: of its outputs, in order.
        nodes: those of the main graph and of bodies, by digest.
        inputs: the digests that a node reads, by its own.
        tensors: names of stored tensors, by digest.
        read: names that some node reads.
        values: the digests of all values.
        random: nodes that draw random numbers.
    """

    def __init__(self, model: LoadedModel, data: Bytes) -> None:
        self.model, self._data = model, data
        self.nodes: dict[Digest, list[NodeProto]] = {}
        self.inputs: dict[Digest, set[Digest]] = {}
        self.tensors: dict[Digest, list[str]] = {}
        self.read: set[str] = set()
        self.values: set[Digest] = set()
        self._draws: Counter[Digest] = Counter()
        self.random = random_nodes(model.proto)
        self._drawing = {id(node) for node in self.random}
        self._defaults: dict[tuple[str, str], dict[str, bytes]] = {}
        self._opsets = {_domain(item.domain): item.version for item in model.proto.opset_import}
        main = _Scope()
        self._enter(model.proto.graph, main, lambda index, info: ("input", info.name))
        self.digests = main.known
        self.outputs = [self._value(main, info.name) for info in model.proto.graph.output]

    def sizes(self, name: str) -> Shape | None:
        """The shape that the graph gives one of its values, None where that is not known."""
        return self._shapes.get(name)

    @cached_property
    def _shapes(self) -> Mapping[str, Shape | None]:
        try:
            return {name: value.shape for name, value in view_of(self.model.proto).main.values.items()}
        except HeadPruneError:
            return {}

    def _enter(
        self, graph: GraphProto, scope: _Scope, called: Callable[[int, ValueInfoProto], tuple[object, ...]]
    ) -> None:
        """Find the digests of all values of a graph."""
        known = scope.known
        for index, info in enumerate(graph.input):
            known[info.name] = _digest(*called(index, info))
        for tensor in graph.initializer:
            known[tensor.name] = self._tensor(tensor, tensor.name)
        for sparse in graph.sparse_initializer:
            known[sparse.values.name] = self._sparse(sparse)
        for node in graph.node:
            self._add(node, scope)
        self.values.update(known.values())

    def _add(self, node: NodeProto, scope: _Scope) -> None:
        tensor = stored_tensor(node)
        self.read.update(node.input)
        if tensor is not None:
            scope.known |= {name: self._tensor(tensor, name) for name in node.output}
            return
        given = [self._value(scope, name) if name else b"" for name in _given(node.input)]
        if is_a(node, "Identity") and len(given) == len(node.output) == 1:
            scope.known[node.output[0]] = given[0]
            return
        operator = _domain(node.domain), node.op_type
        read = {item for item in given if item}
        attributes = self._defaults_of(operator) | {
            item.name: self._attribute(item, scope, read) for item in node.attribute
        }
        outputs = _given(node.output)
        parts = (*operator, sorted(attributes.items()), given, len(outputs))
        own = _digest("node", *parts)
        if id(node) in self._drawing:
            # Two nodes that draw are never one.
            self._draws[own] += 1
            own = _digest("draw", own, self._draws[own])
        self.nodes.setdefault(own, []).append(node)
        self.inputs[own] = read
        scope.known |= {name: _digest("output", own, index) for index, name in enumerate(outputs) if name}

    def _value(self, scope: _Scope, name: str) -> Digest:
        # What nobody makes, or only a later node, is like nothing else.
        return scope.find(name) or _digest("unknown", id(self), name)

    def _defaults_of(self, operator: tuple[str, str]) -> dict[str, bytes]:
        """The defaults of the operator's attributes."""
        if operator not in self._defaults:
            domain, op_type = operator
            version = self._opsets.get(domain, 1)
            found = onnx.defs.has(op_type, version, domain)
            schema = onnx.defs.get_schema(op_type, version, domain) if found else None
            self._defaults[operator] = {
                name: _plain(item.default_value)
                for name, item in ({} if schema is None else schema.attributes).items()
                if item.default_value.name
            }
        return self._defaults[operator]

    def _attribute(self, attribute: AttributeProto, scope: _Scope, read: set[Digest]) -> bytes:
        if attribute.type == AttributeProto.TENSOR:
            return self._tensor(attribute.t)
        if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            bodies = [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
            return _digest("bodies", [self._body(body, scope, read) for body in bodies])
        return _plain(attribute)

    def _body(self, graph: GraphProto, parent: _Scope, read: set[Digest]) -> Digest:
        """Of what a body computes, which its owner reads, and of all that it declares."""
        scope = _Scope(parent)
        self._enter(graph, scope, lambda index, _: ("of a body", scope.depth, index))
        outputs = [self._value(scope, info.name) for info in graph.output]
        read.update(outputs)
        interface = [_declared(info) for info in (*graph.input, *graph.output)]
        between = {
            (scope.known[info.name], _declared(info)) for info in graph.value_info if info.name in scope.known
        }
        return _digest("body", len(graph.input), outputs, interface, sorted(between))

    def _tensor(self, tensor: TensorProto, name: str = "") -> Digest:
        """Of type, shape and bytes."""
        found = hashlib.blake2b(
            repr(("tensor", tensor.data_type, tuple(tensor.dims))).encode(), digest_size=16
        )
        if tensor.HasField("raw_data") or is_outside(tensor):
            for block in self._data(tensor, self.model):
                found.update(block)
        elif tensor.data_type == TensorProto.STRING:
            found.update(repr(list(tensor.string_data)).encode())
        else:
            found.update(numpy_helper.from_array(array_of(tensor)).raw_data)
        digest = found.digest()
        if name:
            self.tensors.setdefault(digest, []).append(name)
        return digest

    def _sparse(self, sparse: SparseTensorProto) -> Digest:
        parts = [self._tensor(item) for item in (sparse.values, sparse.indices)]
        return _digest("sparse", tuple(sparse.dims), parts)


def _digest(*parts: object) -> Digest:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


def _plain(attribute: AttributeProto) -> bytes:
    """An attribute without its name and doc string."""
    copy = AttributeProto.FromString(attribute.SerializeToString())
    copy.ClearField("doc_string")
    copy.ClearField("name")
    return bytes(copy.SerializeToString(deterministic=True))


def _declared(info: ValueInfoProto) -> bytes:
    return bytes(info.type.SerializeToString(deterministic=True))


def _stored(graph: GraphProto) -> Iterator[str]:
    """The names of a graph's stored tensors."""
    yield from (tensor.name for tensor in graph.initializer)
    yield from (name for node in graph.node if stored_tensor(node) is not None for name in node.output)


def _given(names: Iterable[str]) -> list[str]:
    """Inputs or outputs of a node; omitted ones at the end are as good as none."""
    given = list(names)
    while given and not given[-1]:
        given.pop()
    return given


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
