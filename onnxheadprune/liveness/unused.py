"""Plain dead code: the nodes and stored tensors that nobody needs after a set of edits.

What a node needs of its inputs are their contents, but for nodes that show a shape: the shape of a value that nobody
needs any more is read elsewhere, so that nothing is computed for it alone. What the original computes for its shape
alone stays, and so does what it computes for nobody, as long as that reads what it read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from typing import TypeAlias

from onnxheadprune.edit.edits import (
    AddConstant,
    DropBranchOutput,
    DropInputs,
    DropIo,
    DropNode,
    DropTensor,
    EdgeGather,
    Edit,
    InsertNode,
    SetInput,
    SetOutput,
    SliceTensor,
    scope_of,
)
from onnxheadprune.edit.submodel import values_read
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.shapes import ShapeSources
from onnxheadprune.model.graph.operator import OBSERVES
from onnxheadprune.model.graph.view import GraphView, Node, Scope, Use, Value
from onnxheadprune.model.graph.walks import reachable

NOBODY: frozenset[str] = frozenset()
Edits: TypeAlias = Mapping[Edit, frozenset[str]]
Key: TypeAlias = Value | str
"""A value of the model, or the name of a new one."""
Maker: TypeAlias = Node | InsertNode | AddConstant | SliceTensor
"""A node of the model, or the edit that makes a new value."""


def settled(
    view: GraphView,
    edits: Edits,
    kept: Mapping[Value, Live] | None = None,
    going: Collection[Value] = (),
) -> dict[Edit, frozenset[str]]:
    """`edits` without new values that nobody needs, and with the removal of old ones that nobody needs any more.

    Args:
        kept: the kept parts of values; None where reads of shapes stay unchanged.
        going: graph inputs that are to be removed.
    """
    original = _Reads(view, {})
    before = original.needed(shown=None)
    if kept is not None:
        edits = _shown_elsewhere(view, edits, kept, going, original.needed(shown=()))
    reads = _Reads(view, edits, going)
    needed = reads.needed(shown=None)
    made, had, lost = reads.makers(needed), original.makers(before), before - needed
    found = {edit: sites for edit, sites in edits.items() if not _is_unneeded(edit, view, made)}
    changed = {*lost, *going, *(value for value, live in (kept or {}).items() if not live.is_full)}
    for node in view.nodes:
        if node.scope.owner is not None and node.scope.owner not in made:
            continue
        is_hit = node in view.dead_ends and not changed.isdisjoint(values_read(node))
        if is_hit:
            changed.update(node.results)
        if is_hit or (node in had and node not in made):
            found.setdefault(DropNode(node.ref, node.op_type), NOBODY)
    for scope in view.scopes if lost else ():
        if scope.owner is None or scope.owner in made:
            gone = (value for value in scope.values.values() if value in lost and value.is_initializer)
            found |= {DropTensor(scope.ref, value.name): NOBODY for value in gone if not value.is_graph_input}
    return found


def _is_unneeded(edit: Edit, view: GraphView, made: Collection[Maker]) -> bool:
    """Return whether an edit makes something that nobody needs, or a gather for a node that goes."""
    if isinstance(edit, EdgeGather):
        return view.by_ref[edit.node] not in made
    makes = isinstance(edit, AddConstant | InsertNode) or (
        isinstance(edit, SliceTensor) and edit.target != edit.name
    )
    return makes and edit not in made


def _shown_elsewhere(
    view: GraphView,
    edits: Edits,
    kept: Mapping[Value, Live],
    going: Collection[Value],
    before: Set[Key],
) -> Edits:
    """`edits` with those that read shapes of values elsewhere whose contents nobody needs any more.

    Raises:
        RefusedError: if a new node reads a shape that nothing else shows.
    """
    found, asked = dict(edits), set[Maker]()
    while True:
        reads = _Reads(view, found, going)
        contents = reads.needed(shown=())
        # What a new node makes in the place of an old one may itself be waiting for that size.
        as_before = contents - reads.elsewhere
        made = reads.makers(reads.needed(shown=asked))
        waiting = [
            (node, value)
            for node in (*view.nodes, *found)
            if isinstance(node, Node | InsertNode) and node in made and node in OBSERVES and node not in asked
            if isinstance(value := reads.inputs(node)[0], Value)
            and reads.is_missing(value, contents if isinstance(node, Node) else as_before)
        ]
        if not waiting:
            return found
        asked.update(node for node, _ in waiting)
        sources = ShapeSources(view, kept, as_before, going)
        for node, value in waiting:
            if isinstance(node, InsertNode):
                found = _replaced(found, node, sources.of_new(node))
            elif not before.isdisjoint(reads.only_shown(value, contents)) and node.out not in reads.elsewhere:
                found |= dict.fromkeys(sources.of_old(node, reads.readers(node.out, made)), NOBODY)


def _replaced(edits: Edits, node: InsertNode, others: Sequence[Edit] | None) -> dict[Edit, frozenset[str]]:
    """Edits with others in the place of a new node that shows a shape."""
    if others is None:
        raise RefusedError(
            f"{' and '.join(sorted(edits[node]))} cannot be removed as a whole: nothing else in the graph shows how"
            f" large {node.inputs[0]} is; leave at least one unit"
        )
    found: dict[Edit, frozenset[str]] = {}
    for edit, sites in edits.items():
        found |= dict.fromkeys(others, sites) if edit == node else {edit: sites}
    return found


class _Reads:
    """The inputs of all nodes after some edits, new nodes and constants included."""

    def __init__(self, view: GraphView, edits: Iterable[Edit], going: Collection[Value] = ()) -> None:
        self._view, self._going = view, going
        self._scopes = {scope.ref: scope for scope in view.scopes}
        self._inputs: dict[Node, list[Key | None]] = {}
        self._new: defaultdict[Key, list[Maker]] = defaultdict(list)
        self.elsewhere: set[Value] = set()  # old values that their nodes make no more
        self._unread: set[tuple[str, str]] = set()  # outputs of graphs that go
        for edit in edits:
            self._note(edit)

    def _note(self, edit: Edit) -> None:
        match edit:
            case SetInput():
                node = self._view.by_ref[edit.node]
                inputs = self._inputs.setdefault(node, list(node.inputs))
                inputs += [None] * (edit.index + 1 - len(inputs))
                inputs[edit.index] = self._key(node.scope.ref, edit.value)
            case DropInputs():
                node = self._view.by_ref[edit.node]
                inputs = self._inputs.setdefault(node, list(node.inputs))
                for index in edit.indices:
                    inputs[index] = None
            case SetOutput():
                node = self._view.by_ref[edit.node]
                self.elsewhere.update(value for value in node.results if value.output_index == edit.index)
                self._make(node.scope.ref, edit.value, node)
            case DropNode():
                self.elsewhere.update(self._view.by_ref[edit.node].results)
            case InsertNode():
                for name in edit.outputs:
                    self._make(scope_of(edit.before), name, edit)
            case AddConstant():
                self._make(edit.scope, edit.name, edit)
            case SliceTensor() if edit.target != edit.name:
                self._make(edit.scope, edit.target, edit)
            case DropIo() if edit.role == "output":
                self._unread.add((edit.scope, edit.name))
            case DropBranchOutput():
                for body in self._view.by_ref[edit.node].bodies.values():
                    self._unread.add((body.ref, body.proto.output[edit.index].name))

    def _key(self, scope: str, name: str) -> Key | None:
        return (self._scopes[scope].lookup(name) or name) if name else None

    def _make(self, scope: str, name: str, maker: Maker) -> None:
        key = self._key(scope, name)
        if key is not None:
            self._new[key].append(maker)

    def needed(self, shown: Collection[Maker] | None) -> set[Key]:
        """All that the outputs need, and what is computed for the shapes that some nodes show, or all of them."""
        return set(reachable(self._outputs(self._view.main), lambda key: self.behind(key, shown)))

    def makers(self, keys: Iterable[Key]) -> set[Maker]:
        """The nodes and edits that make values."""
        return {maker for key in keys for maker in self._makers(key)}

    def inputs(self, node: Node | InsertNode) -> Sequence[Key | None]:
        """The inputs of a node, by position."""
        if isinstance(node, InsertNode):
            return [self._key(scope_of(node.before), name) for name in node.inputs]
        return self._inputs.get(node, node.inputs)

    def readers(self, key: Key, made: Collection[Maker]) -> list[Use]:
        """The nodes of the model that still read a value."""
        return [
            Use(node, index)
            for node in self._view.nodes
            if node in made
            for index, read in enumerate(self.inputs(node))
            if read is key
        ]

    def behind(self, key: Key, shown: Collection[Maker] | None = ()) -> Iterator[Key]:
        """The values that a value is computed from."""
        for maker in self._makers(key):
            if isinstance(maker, Node | InsertNode):
                yield from self.of(maker, shown)

    def of(self, node: Node | InsertNode, shown: Collection[Maker] | None) -> Iterator[Key]:
        """The values that a node is computed from; a Shape needs none of its input's."""
        passes = shown is None or node not in OBSERVES or node in shown
        for key in self.inputs(node):
            if key is not None and (passes or not self.is_missing(key, ())):
                yield key
        for body in node.bodies.values() if isinstance(node, Node) else ():
            yield from self._outputs(body)

    def is_missing(self, key: Key, contents: Collection[Key]) -> bool:
        """Return whether a value is not there unless somebody computes it."""
        return key not in contents and (key in self._going or bool(self._makers(key)))

    def only_shown(self, key: Key, contents: Collection[Key]) -> Iterator[Key]:
        """A value whose shape alone is read, and what is computed for it alone."""
        others = reachable([key], lambda item: () if item in contents else self.behind(item))
        return (item for item in others if item not in contents)

    def _makers(self, key: Key) -> Sequence[Maker]:
        node = key.producer if isinstance(key, Value) and key not in self.elsewhere else None
        return self._new.get(key, []) + ([] if node is None else [node])

    def _outputs(self, scope: Scope) -> Iterator[Key]:
        for info in scope.proto.output:
            value = scope.lookup(info.name)
            if value is not None and (scope.ref, info.name) not in self._unread:
                yield value
