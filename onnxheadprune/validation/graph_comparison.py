"""Comparison of the pruned model's graph with the planned one, whatever its values and nodes are called.

The plan is carried out on the original once more, and both graphs are walked from their outputs upwards, side by
side. Inputs of a node have an order, so two values are the same exactly if the same operator with the same attributes
makes both from inputs that are the same, down to stored tensors of the same numbers and graph inputs of the same name.
Names, the order of nodes, Identity nodes, and whether a tensor is an initializer or a Constant node play no part; what
the two declare does (`declarations`). What is the same needs no run to be proven; the rest does.

Doc strings: exporters write stack traces of each node there, which may be far more than the model itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias

import onnx.defs
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    ValueInfoProto,
)

from onnxheadprune.model.bodies import bodies_of
from onnxheadprune.model.messages import copied
from onnxheadprune.model.spelling import first_few, many
from onnxheadprune.model.typed_json import HIDDEN, JsonObject, Spelled, written
from onnxheadprune.validation.declarations import Declarations, Inferred
from onnxheadprune.validation.node_matching import Matching, matched
from onnxheadprune.validation.producers import Producer, ProducerKind, Scope, label, nodes_of, scopes_of

Documented: TypeAlias = (
    ModelProto | GraphProto | FunctionProto | NodeProto | AttributeProto | TensorProto | ValueInfoProto
)
MUCH = 2**20
"""Characters that are worth a copy of the model."""


def undocumented(model: ModelProto) -> ModelProto:
    """A copy without doc strings, which no analysis and no run reads; the model itself if they are short."""
    if sum(len(item.doc_string) for item in _documented(model)) < MUCH:
        return model
    copy = copied(model)
    for item in _documented(copy):
        item.ClearField("doc_string")
    return copy


def _documented(model: ModelProto) -> Iterator[Documented]:
    """Yield all parts of a model that may have a doc string."""
    yield model
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield function
        yield from _of_nodes(function.node)


def _of_graph(graph: GraphProto) -> Iterator[Documented]:
    yield graph
    for listed in (graph.initializer, graph.input, graph.output, graph.value_info):
        yield from listed
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[NodeProto]) -> Iterator[Documented]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield attribute
            if attribute.HasField("t"):
                yield attribute.t
        for body in bodies_of(node):
            yield from _of_graph(body)


SameTensor: TypeAlias = Callable[[str, TensorProto, TensorProto], bool]
"""A comparison of a planned tensor (by its name there) and one of the pruned model."""
LISTED = 5
"""Differences that are spelled out."""


def _first_labels(nodes: tuple[NodeProto, ...]) -> list[str]:
    return list(map(label, nodes[:LISTED]))


@dataclass(frozen=True)
class Likeness(JsonObject):
    """The degree to which a pruned model's graph is the planned one."""

    nodes: int  # nodes of the pruned model, those of bodies included
    same: int  # how many of them are the planned ones
    tensors: Annotated[
        frozenset[str], Spelled(int, len)
    ]  # names of its stored tensors that were found to hold the planned numbers
    differences: tuple[str, ...]  # where the two part, one sentence each, the first few
    count: int  # how many places there are
    declared: Annotated[int, HIDDEN] = (
        0  # how many of them are declarations; the others are nodes and tensors
    )
    # sizes of outputs that only the pruned model declares, None along other axes
    fixed: Annotated[Mapping[str, tuple[int | None, ...]], HIDDEN] = field(default_factory=dict)
    # the nodes of the pruned model that are not the planned ones
    differing: Annotated[tuple[NodeProto, ...], Spelled(Any, _first_labels)] = field(default=(), repr=False)
    missing: Annotated[
        tuple[str, ...], Spelled(Any, lambda labels: labels[:LISTED])
    ] = ()  # planned nodes that it lacks, by label

    @property
    def others(self) -> Iterator[str]:
        """Name the nodes that are not the planned ones, and the planned ones that are missing."""
        if self.differing:
            yield _listed("not planned", [label(node) for node in self.differing])
        if self.missing:
            yield _listed("planned and missing", self.missing)

    @property
    @written()
    def identical(self) -> bool:
        """True if nothing differs but names and order."""
        return not self.count

    @property
    def sentence(self) -> str:
        """The likeness of the graph and the planned one, in words."""
        if self.identical:
            return f"{many(self.nodes, 'node')}, all as planned but for names and order"
        missing = f", {many(len(self.missing), 'planned node')} missing" if self.missing else ""
        same = f"{self.same} of {many(self.nodes, 'node')} are the planned ones{missing}"
        return f"{same}; it parts from the plan in {many(self.count, 'place')}"


def _listed(what: str, labels: Sequence[str]) -> str:
    return f"{many(len(labels), 'node')} {what}: {first_few(labels, LISTED)}"


def likeness(
    planned: ModelProto, pruned: ModelProto, same_tensor: SameTensor, inferred: Inferred
) -> Likeness:
    """Compare two graphs of the same inputs and outputs."""
    walk = _Walk(planned, pruned, same_tensor)
    walk.run()
    walk.find_leftovers()
    declared = Declarations(planned, pruned, inferred)
    interface, inside = [*declared.interface()], [*declared.inside(*walk.scopes, walk.pairs)]
    differences = [*interface, *walk.differences, *inside]
    # Where the walk found no difference, each node is the planned one, whichever of several equal ones that is.
    found = walk.matching() if walk.differences else Matching((), ())
    walk.forget()
    count = sum(1 for _ in nodes_of(pruned.graph))
    return Likeness(
        count,
        count - len(found.differing),
        frozenset(walk.same_tensors),
        tuple(differences[:LISTED]),
        len(differences),
        len(interface) + len(inside),
        declared.fixed,
        found.differing,
        found.missing,
    )


class _Walk:
    def __init__(self, planned: ModelProto, pruned: ModelProto, same_tensor: SameTensor) -> None:
        self.planned, self.pruned = planned, pruned
        self.same_tensor = same_tensor
        self.scopes = (scopes_of(planned.graph), scopes_of(pruned.graph))
        self.partners: dict[int, Scope] = {id(self.scopes[0][0]): self.scopes[1][0]}
        self.seen: set[tuple[int, int, int, int]] = set()
        self.pairs: dict[tuple[int, int], Producer] = {}
        self.reached: tuple[set[int], set[int]] = (set(), set())
        self.same_nodes: list[tuple[NodeProto, NodeProto]] = []
        self.same_tensors: set[str] = set()
        self.known: dict[tuple[int, int], bool] = {}
        self.differences: list[str] = []
        self.waiting: list[tuple[Producer, Producer, str]] = []
        self._schemas: dict[tuple[str, str], dict[str, AttributeProto]] = {}
        self._opsets = {_domain(item.domain): item.version for item in planned.opset_import}

    def forget(self) -> None:
        """Let go of what refers to itself, which else waits for the garbage collector: as much as the graphs."""
        for scope in (*self.scopes[0], *self.scopes[1]):
            scope.made.clear()

    def run(self) -> None:
        """From the graph outputs upwards."""
        self._compare_opsets()
        first, second = self.scopes[0][0], self.scopes[1][0]
        for info in self.planned.graph.output:
            self._pair(first, info.name, second, info.name, f"output {info.name}")
        while self.waiting:
            self._compare(*self.waiting.pop())

    def find_leftovers(self) -> None:
        """Note nodes and tensors that feed no output and that the planned graph does not have."""
        if self.differences:
            return  # Behind the first difference nothing was walked, so there is no telling what is left over.
        left = [
            Counter(node.op_type for node in nodes_of(model.graph) if id(node) not in reached)
            for model, reached in zip((self.planned, self.pruned), self.reached, strict=True)
        ]
        extra = left[1] - left[0]
        if extra:
            self.differences.append(
                f"{sum(extra.values())} nodes that feed no output: {', '.join(sorted(extra))}"
            )

    def _compare_opsets(self) -> None:
        used = {_domain(node.domain) for node in nodes_of(self.pruned.graph)}
        for domain in sorted(used):
            ours, theirs = (
                " and ".join(
                    sorted(str(item.version) for item in model.opset_import if _domain(item.domain) == domain)
                )
                for model in (self.planned, self.pruned)
            )
            if ours and ours != theirs:
                self.differences.append(
                    f"opset {theirs or 'none'} of {domain or 'ai.onnx'} in place of {ours}"
                )

    def _pair(self, ours: Scope, name: str, theirs: Scope, other: str, where: str) -> None:
        if not name and not other:
            return
        if not name or not other:
            self.differences.append(f"{where} is {'given' if other else 'missing'}")
            return
        first, second = ours.source(name), theirs.source(other)
        key = (id(first.thing), first.index, id(second.thing), second.index)
        if key not in self.seen:
            self.seen.add(key)
            self.pairs[key[2:]] = first
            self.waiting.append((first, second, where))

    def _compare(self, ours: Producer, theirs: Producer, where: str) -> None:
        for side, made in enumerate((ours, theirs)):
            if made.place is ProducerKind.NODE:
                self.reached[side].add(id(made.thing))
        if ours.place is not theirs.place:
            self.differences.append(f"{where} is {theirs.label} in place of {ours.label}")
        elif ours.place is ProducerKind.NODE:
            self._compare_nodes(ours, theirs, where)
        elif ours.place is ProducerKind.TENSOR:
            self._compare_tensors(ours, theirs, where)
        elif not self._same_elsewhere(ours, theirs):
            self.differences.append(f"{where} is {theirs.label} in place of {ours.label}")

    def _same_elsewhere(self, ours: Producer, theirs: Producer) -> bool:
        """Return whether two inputs are the same one, or two sparse tensors."""
        if ours.place is ProducerKind.SPARSE:
            return self._same_sparse(ours.name, ours.thing, theirs.thing)
        if ours.place is ProducerKind.UNKNOWN:
            return False
        if self.partners.get(id(ours.scope)) is not theirs.scope:
            return False
        if ours.scope.parent is None:
            return str(ours.thing.name) == str(theirs.thing.name)
        return ours.index == theirs.index

    def _same_sparse(self, name: str, ours: SparseTensorProto, theirs: SparseTensorProto) -> bool:
        """Return whether two sparse tensors hold the same, wherever their data is."""
        parts = ((ours.values, theirs.values), (ours.indices, theirs.indices))
        return ours.dims == theirs.dims and all(self.same_tensor(name, *pair) for pair in parts)

    def _compare_tensors(self, ours: Producer, theirs: Producer, where: str) -> None:
        if self._same_numbers(ours, theirs):
            self.same_tensors.add(theirs.name)
        else:
            self.differences.append(f"{where} holds other numbers than the planned {ours.name}")

    def _same_numbers(self, ours: Producer, theirs: Producer) -> bool:
        key = id(ours.thing), id(theirs.thing)
        if key not in self.known:
            self.known[key] = self.same_tensor(ours.name, ours.thing, theirs.thing)
        return self.known[key]

    def matching(self) -> Matching:
        """Match all nodes, also those behind a difference."""

        def same_value(ours: Producer, theirs: Producer) -> bool:
            return (
                self._same_numbers(ours, theirs)
                if ours.place is ProducerKind.TENSOR
                else self._same_elsewhere(ours, theirs)
            )

        def same_node(first: NodeProto, second: NodeProto) -> bool:
            return not self._differs(first, second)

        return matched(self.scopes, self.same_nodes, same_node, same_value)

    def _compare_nodes(self, ours: Producer, theirs: Producer, where: str) -> None:
        first, second = ours.thing, theirs.thing
        difference = self._differs(first, second)
        if ours.index != theirs.index and not difference:
            difference = " by another output than planned"
        if difference:
            self.differences.append(f"{where} is made by {theirs.label}{difference}")
            return
        self.same_nodes.append((first, second))
        pairs = zip(_given(first.input), _given(second.input), strict=True)
        for index, (name, other) in enumerate(pairs):
            self._pair(ours.scope, name, theirs.scope, other, f"input {index} of {theirs.label}")
        for name, body in ours.scope.bodies.get(id(first), {}).items():
            inner = theirs.scope.bodies[id(second)][name]
            self.partners[id(body)] = inner
            where = f"of {name} of {theirs.label}"
            for left, right in zip(body.graph.output, inner.graph.output, strict=True):
                self._pair(body, left.name, inner, right.name, f"output {right.name} {where}")

    def _differs(self, first: NodeProto, second: NodeProto) -> str:
        if (_domain(first.domain), first.op_type) != (_domain(second.domain), second.op_type):
            return f" in place of {label(first)}"
        counts = [(len(_given(node.input)), len(_given(node.output))) for node in (first, second)]
        if counts[0] != counts[1]:
            return " with other inputs or outputs than planned"
        ours, theirs = (
            self._defaults(node) | {item.name: item for item in node.attribute} for node in (first, second)
        )
        for name in sorted(ours.keys() | theirs.keys()):
            if name not in ours or name not in theirs or not self._same_attribute(ours[name], theirs[name]):
                return f" with another attribute {name} than planned"
        return ""

    def _defaults(self, node: NodeProto) -> dict[str, AttributeProto]:
        """The defaults of the operator's attributes."""
        domain = _domain(node.domain)
        key = node.op_type, domain
        if key not in self._schemas:
            version = self._opsets.get(domain, 1)
            found = onnx.defs.has(node.op_type, version, domain)
            schema = onnx.defs.get_schema(node.op_type, version, domain) if found else None
            self._schemas[key] = {
                name: item.default_value
                for name, item in ({} if schema is None else schema.attributes).items()
                if item.default_value.name
            }
        return self._schemas[key]

    def _same_attribute(self, ours: AttributeProto, theirs: AttributeProto) -> bool:
        if ours.type != theirs.type:
            return False
        if ours.type == AttributeProto.GRAPH:
            sizes = [(len(item.g.input), len(item.g.output)) for item in (ours, theirs)]
            return sizes[0] == sizes[1]
        if ours.type == AttributeProto.TENSOR:
            return self.same_tensor("", ours.t, theirs.t)
        copies = [AttributeProto.FromString(item.SerializeToString()) for item in (ours, theirs)]
        for copy in copies:
            copy.ClearField("doc_string")
        first, second = (copy.SerializeToString(deterministic=True) for copy in copies)
        return bool(first == second)


def _given(names: Iterable[str]) -> list[str]:
    """Inputs or outputs of a node; omitted ones at the end are as good as none."""
    given = list(names)
    while given and not given[-1]:
        given.pop()
    return given


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
