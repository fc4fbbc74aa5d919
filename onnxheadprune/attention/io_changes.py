"""Changes of inputs and outputs: those that a cut may make, and those that it makes; what outputs depend on.

The cache of attention that is removed as a whole keeps its shape, so that nothing changes for callers. On request its
inputs and outputs are dropped, and the layer numbers in the names of the others run on without a gap.

An output computed from tokens or features still depends on them after a cut. That is a comparison of two graphs that
knows nothing of sites, streams and masks: where a cut and its reference are wrong by the same rules, this still shows.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from onnx import GraphProto, ModelProto, NodeProto

from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.display.spelling import first_few
from onnxheadprune.edit import apply
from onnxheadprune.edit.edits import (
    AddConstant,
    DropBranchOutput,
    DropInputs,
    DropIo,
    DropNode,
    DropTensor,
    Edit,
    Rename,
    SetDim,
    SetInput,
    SetRecord,
    SliceTensor,
)
from onnxheadprune.edit.plan import RenamedIo
from onnxheadprune.edit.records import RecordedContract
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.bodies import bodies_of
from onnxheadprune.model.graph.operator import DRAWS_NORMAL, OBSERVES, is_a, kind
from onnxheadprune.model.graph.view import GraphView, Use, Value
from onnxheadprune.runtime.feeds.inputs import Role, graph_inputs

Cache: TypeAlias = Literal["narrow", "keep", "renumber"]


@dataclass(frozen=True)
class Contract:
    """Consent to change the shapes that callers of the model rely on."""

    # what happens to past and present inputs and outputs: "narrow" removes the heads from them, "keep" keeps
    # their shapes at the price of an edge gather, "renumber" also drops the cache of attention that goes as a
    # whole, and closes the gap in the names of the others
    cache: Cache = "narrow"
    # also narrow graph inputs and outputs that are no cache, where they carry heads
    allow_io_change: bool = False
    recorded: RecordedContract | None = None  # of a cut that was made: only what was agreed to there

    def keeps(self, index: int) -> bool:
        """Return whether the cache of a site keeps its shape when the site loses heads."""
        return self.cache == "keep" if self.recorded is None else index in self.recorded.kept_caches

    def drops(self, index: int) -> bool:
        """Return whether the cache of a site is removed with the whole site."""
        return self.cache == "renumber" if self.recorded is None else index in self.recorded.dropped_caches

    def narrows(self, name: str | None) -> bool:
        """Return whether an input or output that is no cache may be narrowed, by its name after the cut."""
        return self.allow_io_change if self.recorded is None else name in self.recorded.narrowed


AS_IT_IS = Contract()
"""No consent is given beyond what every cut needs: caches follow the heads."""


_NUMBER = re.compile(r"(?<![0-9])(?:0|[1-9][0-9]{0,5})(?![0-9])")
"""A number of a layer: without leading zeros, and not too long to be one."""
LEAVE = "leave `cache=renumber` out, and the cache keeps its shape"


@dataclass(frozen=True, eq=False)
class CacheCut:
    """The caches that are removed."""

    sites: tuple[int, ...] = ()  # indices of the sites whose caches go
    gone: tuple[Value, ...] = ()  # their inputs and outputs
    # the inputs and outputs of others that get another name, with that name
    renamed: Mapping[str, str] = field(default_factory=dict)
    idle: str = ""  # why nothing goes although it was asked for, a sentence; nothing otherwise

    @property
    def names(self) -> Mapping[str, str | None]:
        """New names by those in the original, None for those that go."""
        return {**dict.fromkeys((value.name for value in self.gone), None), **self.renamed}

    def changes(self, view: GraphView) -> tuple[RenamedIo, ...]:
        """The same as data, in the order of the model's inputs and outputs."""
        graph, names = view.model.graph, self.names
        inputs = (
            RenamedIo("input", info.name, names[info.name]) for info in graph.input if info.name in names
        )
        outputs = (
            RenamedIo("output", info.name, names[info.name]) for info in graph.output if info.name in names
        )
        return (*inputs, *outputs)

    def opening(self) -> dict[Edit, frozenset[str]]:
        """The edits that come first: outputs go, so that what only they need goes with them."""
        found: dict[Edit, frozenset[str]] = {}
        for value in self.gone:
            if value.is_graph_output:
                found[DropIo(value.scope.ref, value.name, "output")] = frozenset()
                found |= dict.fromkeys(_in_branches(value), frozenset())
        return found

    def closing(self, view: GraphView, edits: Mapping[Edit, frozenset[str]]) -> dict[Edit, frozenset[str]]:
        """The edits that take the inputs away and rename the others, once everything else is known."""
        for value in self.gone:
            _require_unread(value, edits)
        dropped = {edit.node for edit in edits if isinstance(edit, DropNode)}
        taken = {
            name
            for scope in view.scopes
            for name, value in scope.values.items()
            if name not in self.renamed
            and value not in self.gone
            and (value.producer is None or value.producer.ref not in dropped)
        }
        clash = next((name for name in self.renamed.values() if name in taken), None)
        if clash is not None:
            raise RefusedError(f"the caches cannot be renumbered: {clash} is something else already; {LEAVE}")
        inputs = [value for value in self.gone if value.is_graph_input]
        found: dict[Edit, frozenset[str]] = {
            DropIo(value.scope.ref, value.name, "input"): frozenset() for value in inputs
        }
        main = view.main.ref
        return found | {Rename(main, name, after): frozenset() for name, after in self.renamed.items()}


def cache_cut(view: GraphView, sites: Sites, whole: Sequence[Site]) -> CacheCut:
    """The changes of the caches when some sites are removed as a whole, with theirs."""
    chosen = [site for site in whole if site.io]
    kept = {value for site in sites.sites if site not in chosen for value in site.io}
    own = {value for site in chosen for value in site.io} - kept
    if not own:
        return CacheCut(idle=_why_idle([site for site in whole if site in sites.sites]))
    inner = next((value for value in own if value.scope.parent is not None), None)
    if inner is not None:
        raise RefusedError(
            f"the cache {inner.name} lives inside the body of a control-flow operator, where caches are not"
            f" renumbered; {LEAVE}"
        )
    gone = tuple(sorted(own, key=lambda value: value.name))
    renamed = _renamed(view, [own & site.io for site in chosen])
    return CacheCut(tuple(site.index for site in chosen), gone, renamed)


def _why_idle(whole: Sequence[Site]) -> str:
    """Return why there is no cache to drop."""
    if not whole:
        return "`cache=renumber` has no effect: no whole attention is removed"
    if not any(site.io for site in whole):
        return "`cache=renumber` has no effect: the removed attention has no cache"
    return "`cache=renumber` has no effect: the cache of the removed attention is still used elsewhere"


@dataclass(frozen=True)
class _Family:
    """Names that differ in one number."""

    before: str  # what stands before the number
    behind: str  # what stands behind it

    def name(self, number: int) -> str:
        """The name with a number."""
        return f"{self.before}{number}{self.behind}"


def _renamed(view: GraphView, gone: Sequence[Collection[Value]]) -> dict[str, str]:
    """New names of the inputs and outputs that are numbered together with those that go."""
    names = [
        value.name
        for value in view.main.values.values()
        if value.is_graph_output or (value.is_graph_input and not value.is_initializer)
    ]
    numbers: dict[_Family, set[int]] = defaultdict(set)
    for name in names:
        for family, number in _readings(name):
            numbers[family].add(number)
    lost: dict[_Family, set[int]] = defaultdict(set)
    for values in gone:
        readings = [item for value in values if (item := _reading(value.name, numbers)) is not None]
        for family, number in readings:
            if [other for other, _ in readings].count(family) > 1:
                raise RefusedError(
                    f"the caches cannot be renumbered: the number in {family.name(number)} is not that of a layer,"
                    f" since two caches of one layer differ in it; {LEAVE}"
                )
            lost[family].add(number)
    heads = {family.before for family in lost}
    together = [family for family in numbers if family.before in heads]
    away = set().union(*lost.values())
    found: dict[str, str] = {}
    for family in together:
        have = sorted(numbers[family])
        staying = next((number for number in have if number in away - lost[family]), None)
        if staying is not None:
            raise RefusedError(
                f"the caches cannot be renumbered: {family.name(staying)} belongs to the same layer as a removed"
                f" cache, and is kept; {LEAVE}"
            )
        if have != list(range(have[0], have[0] + len(have))):
            raise RefusedError(
                f"the caches cannot be renumbered: {family.name(have[0])} and those like it are numbered"
                f" {first_few(have)}, with gaps that mean something to their callers; {LEAVE}"
            )
        left = [number for number in have if number not in away]
        for after, before in enumerate(left, have[0]):
            if after != before:
                found[family.name(before)] = family.name(after)
    return found


def _readings(name: str) -> Iterator[tuple[_Family, int]]:
    """All ways to read a name as a numbered one."""
    for found in _NUMBER.finditer(name):
        yield _Family(name[: found.start()], name[found.end() :]), int(found.group())


def _reading(name: str, numbers: Mapping[_Family, set[int]]) -> tuple[_Family, int] | None:
    """The number in a name that counts layers: the only one, or the only one that others differ in."""
    readings = list(_readings(name))
    if len(readings) > 1:
        readings = [item for item in readings if len(numbers[item[0]]) > 1]
        if len(readings) != 1:
            raise RefusedError(
                f"the caches cannot be renumbered: it does not show which number in the name {name} is that of its"
                f" layer; {LEAVE}"
            )
    return readings[0] if readings else None


def _in_branches(value: Value) -> Iterator[DropBranchOutput]:
    """The edit on a choice between branches that makes an output of the graph, and nothing else reads it."""
    if value.producer is not None and is_a(value.producer, "If") and not value.consumers:
        yield DropBranchOutput(value.producer.ref, value.output_index)


def _require_unread(value: Value, edits: Mapping[Edit, frozenset[str]]) -> None:
    """Check whether nothing reads a cache that goes."""
    dropped = {edit.node for edit in edits if isinstance(edit, DropNode)}
    made = value.producer is not None and value.producer.ref not in dropped
    if made and not any(edit in edits for edit in _in_branches(value)):
        assert value.producer is not None
        raise RefusedError(
            f"the caches cannot be renumbered: {value.producer.label} still computes {value.name} of the removed"
            f" attention; {LEAVE}"
        )
    reset = {(edit.node, edit.index) for edit in edits if isinstance(edit, SetInput)}
    reset |= {(edit.node, index) for edit in edits if isinstance(edit, DropInputs) for index in edit.indices}
    for use in value.consumers:
        if use.node.ref not in dropped and (use.node.ref, use.input_index) not in reset:
            raise RefusedError(
                f"the caches cannot be renumbered: {use.node.label} still reads {value.name} of the removed"
                f" attention; {LEAVE}"
            )


Inputs: TypeAlias = frozenset[str]
Reads: TypeAlias = frozenset[tuple[int, int]]
"""Nodes by their identity, each with the position of an input."""
NOTHING: Inputs = frozenset()
_CONTENT = (Role.IDS, Role.PIXELS, Role.FLOATS)
"""The roles of inputs that hold content: tokens, images, features. Masks, positions and lengths hold none."""
_SHOWS_NO_CONTENT = OBSERVES | DRAWS_NORMAL | kind("RandomUniform", "RandomUniformLike")
"""They read the shape of their input at most."""
_OF_TENSORS = (SliceTensor, AddConstant, DropTensor, SetDim, SetRecord)
"""Edits that change no edge of the graph."""


def lost_content(
    before: GraphView, after: ModelProto, silent: Iterable[Use] = ()
) -> Iterator[tuple[str, str]]:
    """Yield the outputs of a pruned model that no longer depend on what they were computed of, each with an input.

    Token ids, by which rows of a table are picked, and images must still be read, each of them, and of other numbers
    one: encoder states, biases, rotary tables and masks of any name may go with the attention that reads them. So may
    positions and caches, and an input or output that the pruned model does not have is not asked for.

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
        features = [item for item in lost if item.role is not Role.PIXELS and item.rows is None]
        yield from ((output, item.name) for item in lost if not (left and item in features))


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
