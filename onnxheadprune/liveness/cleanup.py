"""What nothing uses any more after a set of edits: nodes and stored tensors that died with the heads.

Edits that make something which only the dead would read are not made at all: the frozen length of an axis, in a shape
that another edit replaces as a whole.

Only what *became* unused is dropped. A node or initializer that was already dead in the original is not
this tool's business and stays, as long as all that it reads does. A dead node that reads what goes or gets narrower
goes too: nobody can say what its attributes, weights and target shapes should be then, and nobody would see it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
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
from onnxheadprune.model.graph.view import GraphView, Node, Scope, Value

Key: TypeAlias = Value | str
NOBODY: frozenset[str] = frozenset()


def settled(
    view: GraphView, edits: Mapping[Edit, frozenset[str]], narrowed: Iterable[Value] = ()
) -> dict[Edit, frozenset[str]]:
    """`edits` without those whose results nobody reads, with the `DropNode` and `DropTensor` edits that follow.

    Args:
        view: the model.
        edits: all edits on it, each with the sites behind it.
        narrowed: computed values that are narrower after the edits.
    """
    return _Cleanup(view, edits).run(narrowed)


class _Cleanup:
    def __init__(self, view: GraphView, edits: Mapping[Edit, frozenset[str]]) -> None:
        self.view = view
        self.edits = edits
        self.inputs: dict[Node, list[Key | None]] = {}
        self.uses: Counter[Key] = Counter()
        self.lost: list[tuple[Key, frozenset[str]]] = []
        self.pinned: set[Node] = set()
        self.dropped: dict[Edit, frozenset[str]] = {}
        self.gone: set[str] = set()
        self.unmade: set[Edit] = set()

    def run(self, narrowed: Iterable[Value]) -> dict[Edit, frozenset[str]]:
        for node in self.view.needed:
            self.uses.update(value for value in node.inputs if value is not None)
        for scope in self.view.scopes:
            for info in scope.proto.output:
                value = scope.lookup(info.name)
                if value is not None:
                    self.uses[value] += 1
        for edit, sites in self.edits.items():
            self._account(edit, sites)
        self._drop_lost()
        while self._take_back():
            self._drop_lost()
        kept = {edit: sites for edit, sites in self.edits.items() if edit not in self.unmade}
        return kept | self.dropped | self._dead_ends(self._changed(narrowed, kept | self.dropped))

    def _changed(
        self, narrowed: Iterable[Value], edits: Mapping[Edit, frozenset[str]]
    ) -> dict[Key, frozenset[str]]:
        """What is gone or narrower after all edits, with the sites behind it."""
        found: dict[Key, frozenset[str]] = dict.fromkeys(narrowed, NOBODY)
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

    def _dead_ends(self, changed: dict[Key, frozenset[str]]) -> dict[Edit, frozenset[str]]:
        """The nodes that no output depended on in the original, and that read what is gone or narrower now."""
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
            changed.update((value, sites) for value in node.outputs if value is not None)
        return found

    def _drop_lost(self) -> None:
        while self.lost:
            self._check(*self.lost.pop())

    def _take_back(self) -> bool:
        """Finds edits that make what nobody reads, and lets go of what they read; whether there were any."""
        found = [edit for edit in self.edits if edit not in self.unmade and self._is_unread(edit)]
        for edit in found:
            self.unmade.add(edit)
            if isinstance(edit, InsertNode):
                scope = self._scope(scope_of(edit.before))
                for name in edit.inputs:
                    self._release(self._key(scope, name), self.edits[edit])
        return bool(found)

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
            current[edit.index] = self._use(node.scope, edit.value)
        elif isinstance(edit, DropInputs):
            node = self.view.by_ref[edit.node]
            current = self.inputs.setdefault(node, list(node.inputs))
            for index in edit.indices:
                self._release(current[index], sites)
                current[index] = None
        elif isinstance(edit, InsertNode):
            scope = self._scope(scope_of(edit.before))
            for name in edit.inputs:
                self._use(scope, name)
        elif isinstance(edit, DropIo) and edit.role == "output":
            self._release(self._key(self._scope(edit.scope), edit.name), sites)
        elif isinstance(edit, DropBranchOutput):
            for body in self.view.by_ref[edit.node].bodies.values():
                self._release(self._key(body, body.proto.output[edit.index].name), sites)
        elif isinstance(edit, SetOutput):
            self.pinned.add(self.view.by_ref[edit.node])
        elif isinstance(edit, DropNode):
            self._drop_node(self.view.by_ref[edit.node], sites, listed=True)

    def _scope(self, ref: str) -> Scope:
        return next(scope for scope in self.view.scopes if scope.ref == ref)

    @staticmethod
    def _key(scope: Scope, name: str) -> Key | None:
        return (scope.lookup(name) or name) if name else None

    def _use(self, scope: Scope, name: str) -> Key | None:
        key = self._key(scope, name)
        if key is not None:
            self.uses[key] += 1
        return key

    def _release(self, key: Key | None, sites: frozenset[str]) -> None:
        if key is None:
            return
        self.uses[key] -= 1
        if self.uses[key] == 0:
            self.lost.append((key, sites))

    def _check(self, key: Key, sites: frozenset[str]) -> None:
        if not isinstance(key, Value) or self.uses[key] > 0:
            return
        if key.is_initializer:
            if not key.is_graph_input:
                self.dropped.setdefault(DropTensor(key.scope.ref, key.name), sites)
            return
        node = key.producer
        if node is None or node in self.pinned or node.ref in self.gone:
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
