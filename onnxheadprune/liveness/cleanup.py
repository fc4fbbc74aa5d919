"""Removal of nodes and stored tensors that are unused after a set of edits.

Edits whose results would be unused are left out: the frozen length of an axis, in a shape
that another edit replaces as a whole.

Only items that *became* unused are dropped. A node or initializer that was already dead in the original
is kept, as long as all its inputs are. A dead node that reads a removed or narrowed value
is removed too: its correct attributes, weights and target shapes would be unknown, and it has no effect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

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
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.consumers import ReadKey
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.remaining_reads import RemainingReads
from onnxheadprune.liveness.shape_sources import ShapeSources
from onnxheadprune.model.graph.facts import OBSERVES
from onnxheadprune.model.graph.view import GraphView, Node, Scope, Use, Value

NOBODY: frozenset[str] = frozenset()


def settled(
    view: GraphView,
    edits: Mapping[Edit, frozenset[str]],
    kept: Mapping[Value, Live] | None = None,
    going: Collection[Value] = (),
) -> dict[Edit, frozenset[str]]:
    """`edits` without those whose results are unused, with the resulting `DropNode` and `DropTensor` edits.

    Args:
        kept: the kept parts of values; None where reads of shapes stay unchanged.
    """
    return _Cleanup(view, edits, kept, going).run()


class _Cleanup:
    def __init__(
        self,
        view: GraphView,
        edits: Mapping[Edit, frozenset[str]],
        kept: Mapping[Value, Live] | None,
        going: Collection[Value],
    ) -> None:
        self.view = view
        self.edits = dict(edits)
        self.kept = {} if kept is None else kept
        self.readers = RemainingReads(going)
        self.inputs, self.gone = self.readers.inputs, self.readers.gone
        self.uses: Counter[ReadKey] = Counter()
        self.lost: list[tuple[ReadKey, frozenset[str]]] = []
        self.touched: dict[Value, frozenset[str]] = dict.fromkeys(going, NOBODY)
        self.dropped: dict[Edit, frozenset[str]] = {}
        self.unmade: set[Edit] = set()
        self.shape_sources = None if kept is None else ShapeSources(view, kept, self.readers)

    def run(self) -> dict[Edit, frozenset[str]]:
        for node in self.view.needed:
            self.uses.update(node.sources)
        for scope in self.view.scopes:
            for info in scope.proto.output:
                value = scope.lookup(info.name)
                if value is not None:
                    self.uses[value] += 1
        for edit, sites in self.edits.items():
            self._account(edit, sites)
        self._drop_lost()
        while self._take_back() or self._reread():
            self._drop_lost()
        self._require_sizes()
        kept = {edit: sites for edit, sites in self.edits.items() if edit not in self.unmade}
        narrowed = (value for value, live in self.kept.items() if not live.is_full)
        return kept | self.dropped | self._dead_ends(self._changed(narrowed, kept | self.dropped))

    def _changed(
        self, narrowed: Iterable[Value], edits: Mapping[Edit, frozenset[str]]
    ) -> dict[ReadKey, frozenset[str]]:
        """Return the values that are removed or narrower after all edits, with the sites that caused it."""
        found: dict[ReadKey, frozenset[str]] = dict.fromkeys(narrowed, NOBODY)
        for edit, sites in edits.items():
            if isinstance(edit, DropTensor | DropIo) or (
                isinstance(edit, SliceTensor) and edit.target == edit.name
            ):
                keys = [self._key(self._scope(edit.scope), edit.name)]
            elif isinstance(edit, DropNode):
                keys = list(self.view.by_ref[edit.node].outputs)
            elif isinstance(edit, DropBranchOutput):
                keys = [self.view.by_ref[edit.node].outputs[edit.index]]
            else:
                continue
            found.update((key, sites) for key in keys if key is not None)
        return found

    def _dead_ends(self, changed: dict[ReadKey, frozenset[str]]) -> dict[Edit, frozenset[str]]:
        """The nodes that no output depended on in the original, and that read a removed or narrowed value."""
        found: dict[Edit, frozenset[str]] = {}
        hit: dict[Node, frozenset[str]] = {}
        for node in sorted(self.view.dead_ends, key=lambda node: node.index):
            causes = [changed[value] for value in node.inputs if value in changed]
            causes += [hit[node]] if node in hit else []
            if not causes or node.ref in self.gone:
                continue
            sites = NOBODY.union(*causes)
            owner = node.scope.owner
            if owner in self.view.dead_ends:
                hit[owner] = hit.get(owner, NOBODY) | sites
                continue
            found[DropNode(node.ref, node.op_type)] = sites
            changed.update((value, sites) for value in node.results)
        return found

    def _drop_lost(self) -> None:
        while self.lost:
            self._check(*self.lost.pop())

    def _take_back(self) -> bool:
        """Drop edits with unused results, and their reads; return whether there were any."""
        found = [edit for edit in self.edits if edit not in self.unmade and self._is_unread(edit)]
        for edit in found:
            self._unmake(edit)
        return bool(found)

    def _reread(self) -> bool:
        """Redirect reads of shapes of otherwise unused values; return whether there were any."""
        touched, self.touched = self.touched, {}
        if self.shape_sources is None:
            return False
        found = False
        for value, sites in touched.items():
            for reader, edits in list(self.shape_sources.of(value)):
                found = True
                if isinstance(reader, InsertNode):
                    self._replace(reader, edits)
                for edit in edits:
                    self.edits[edit] = self.edits.get(edit, NOBODY) | sites
                    self._account(edit, sites)
        return found

    def _replace(self, node: InsertNode, edits: Sequence[Edit]) -> None:
        """Replace a new node by other edits in its place."""
        sites = self.edits[node]
        self._unmake(node)
        listed = dict[Edit, frozenset[str]]()
        for edit, others in self.edits.items():
            listed |= dict.fromkeys(edits, sites) if edit == node else {edit: others}
        self.edits = listed

    def _unmake(self, edit: Edit) -> None:
        self.unmade.add(edit)
        if isinstance(edit, InsertNode):
            self.readers.unmade.add(edit)
            scope = self._scope(scope_of(edit.before))
            for name in edit.inputs:
                self._release(self._key(scope, name), self.edits[edit])

    def _require_sizes(self) -> None:
        """Check that no new node reads the shape of an otherwise unused value."""
        for edit, sites in self.edits.items() if self.shape_sources is not None else ():
            if edit in self.unmade or not isinstance(edit, InsertNode) or edit not in OBSERVES:
                continue
            value = self._key(self._scope(scope_of(edit.before)), edit.inputs[0])
            if isinstance(value, Value) and not self.readers.stays(value):
                raise RefusedError(
                    f"{' and '.join(sorted(sites))} cannot be removed as a whole: nothing else in the graph shows how"
                    f" large {value.name} is; leave at least one unit"
                )

    def _is_unread(self, edit: Edit) -> bool:
        if isinstance(edit, AddConstant):
            return self.uses[self._key(self._scope(edit.scope), edit.name) or ""] == 0
        if isinstance(edit, SliceTensor) and edit.target != edit.name:
            return self.uses[self._key(self._scope(edit.scope), edit.target) or ""] == 0
        if isinstance(edit, InsertNode):
            scope = self._scope(scope_of(edit.before))
            return all(self.uses[self._key(scope, name) or ""] == 0 for name in edit.outputs)
        # A gather for a node that is gone is none.
        return isinstance(edit, EdgeGather) and edit.node in self.gone

    def _account(self, edit: Edit, sites: frozenset[str]) -> None:
        if isinstance(edit, SetInput):
            node = self.view.by_ref[edit.node]
            current = self.inputs.setdefault(node, list(node.inputs))
            current += [None] * (edit.index + 1 - len(current))
            self._release(current[edit.index], sites)
            current[edit.index] = self._use(node.scope, edit.value, Use(node, edit.index))
        elif isinstance(edit, DropInputs):
            node = self.view.by_ref[edit.node]
            current = self.inputs.setdefault(node, list(node.inputs))
            for index in edit.indices:
                self._release(current[index], sites)
                current[index] = None
        elif isinstance(edit, InsertNode):
            scope = self._scope(scope_of(edit.before))
            for name in edit.inputs:
                key = self._use(scope, name, edit)
                if isinstance(key, Value) and edit in OBSERVES:
                    self.touched[key] = sites
        elif isinstance(edit, DropIo) and edit.role == "output":
            self._keep_back(self._key(self._scope(edit.scope), edit.name), sites)
        elif isinstance(edit, DropBranchOutput):
            for body in self.view.by_ref[edit.node].bodies.values():
                self._keep_back(self._key(body, body.proto.output[edit.index].name), sites)
        elif isinstance(edit, SetOutput):
            self.readers.pinned.add(self.view.by_ref[edit.node])
        elif isinstance(edit, DropNode):
            self._drop_node(self.view.by_ref[edit.node], sites, listed=True)

    def _scope(self, ref: str) -> Scope:
        return next(scope for scope in self.view.scopes if scope.ref == ref)

    @staticmethod
    def _key(scope: Scope, name: str) -> ReadKey | None:
        return (scope.lookup(name) or name) if name else None

    def _use(self, scope: Scope, name: str, reader: Use | InsertNode) -> ReadKey | None:
        key = self._key(scope, name)
        if key is not None:
            self.uses[key] += 1
            self.readers.add(key, reader)
        return key

    def _keep_back(self, key: ReadKey | None, sites: frozenset[str]) -> None:
        if isinstance(key, Value):
            self.readers.kept_back.add(key)
        self._release(key, sites)

    def _release(self, key: ReadKey | None, sites: frozenset[str]) -> None:
        if key is None:
            return
        self.uses[key] -= 1
        if self.uses[key] == 0:
            self.lost.append((key, sites))
        elif isinstance(key, Value):
            self.touched[key] = self.touched.get(key, NOBODY) | sites

    def _check(self, key: ReadKey, sites: frozenset[str]) -> None:
        if not isinstance(key, Value) or self.uses[key] > 0:
            return
        if key.is_initializer:
            if not key.is_graph_input:
                self.dropped.setdefault(DropTensor(key.scope.ref, key.name), sites)
            return
        node = key.producer
        if node is None or node in self.readers.pinned or node.ref in self.gone:
            return
        if all(output is None or self.uses[output] == 0 for output in node.outputs):
            self._drop_node(node, sites, listed=False)

    def _drop_node(self, node: Node, sites: frozenset[str], listed: bool) -> None:
        if node.ref in self.gone:
            return
        self.gone.add(node.ref)
        if not listed:
            self.dropped[DropNode(node.ref, node.op_type)] = sites
        for key in self.inputs.get(node, list(node.inputs)):
            self._release(key, sites)
        for body in node.bodies.values():
            for inner in body.nodes:
                for value in inner.inputs:
                    if value is not None and value.scope is not body:
                        self._release(value, sites)
