"""The reads of values that remain after edits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from onnxheadprune.edit.edits import InsertNode
from onnxheadprune.liveness.consumers import Asking, ReadKey, looks_only
from onnxheadprune.model.graph.facts import CASTS_LIKE, OBSERVES
from onnxheadprune.model.graph.view import Node, Use, Value


@dataclass
class RemainingReads:
    """The remaining reads after edits."""

    going: Collection[Value] = ()  # graph inputs that are to be removed
    inputs: dict[Node, list[ReadKey | None]] = field(default_factory=dict)  # new inputs of nodes
    gone: set[str] = field(default_factory=set)  # references of nodes that are dropped
    unmade: set[InsertNode] = field(default_factory=set)  # new nodes that are left out after all
    kept_back: set[Value] = field(default_factory=set)  # removed outputs of the graph or of a body
    # nodes whose output has a new name, and replaces another value
    pinned: set[Node] = field(default_factory=set)
    _more: defaultdict[ReadKey, list[Use | InsertNode]] = field(default_factory=lambda: defaultdict(list))

    def add(self, key: ReadKey, reader: Use | InsertNode) -> None:
        """Record a read that the model does not have."""
        self._more[key].append(reader)

    def is_gone(self, node: Node) -> bool:
        """Return whether a node, or a node that contains it, is dropped."""
        owner: Node | None = node
        while owner is not None:
            if owner.ref in self.gone:
                return True
            owner = owner.scope.owner
        return False

    def readers(self, key: ReadKey) -> Iterator[Use | InsertNode]:
        """Yield all reads of a value."""
        for use in key.consumers if isinstance(key, Value) else ():
            current = self.inputs.get(use.node)
            if (current is None or current[use.input_index] is key) and not self.is_gone(use.node):
                yield use
        for reader in self._more.get(key, ()):
            if isinstance(reader, InsertNode):
                if reader not in self.unmade:
                    yield reader
            elif self.inputs[reader.node][reader.input_index] == key and not self.is_gone(reader.node):
                yield reader

    def stays(self, value: Value) -> bool:
        """Return whether a value is an input that is kept, or computed for its contents."""
        if value in self.going:
            return False
        if value.producer is None:
            return value.is_graph_input and not value.is_initializer
        made = value.producer not in self.pinned and not self.is_gone(value.producer)
        return made and self.asking(value) is None

    def asking(self, value: Value) -> list[Asking] | None:
        """Return the nodes that read the shape of a value; None if its contents are needed too."""
        # An output whose producer is dropped is computed by a new node.
        made = value.producer is None or not self.is_gone(value.producer)
        if value.is_graph_output and value not in self.kept_back and made:
            return None
        found: list[Asking] = []
        for reader in self.readers(value):
            if isinstance(reader, Use) and not looks_only(reader):
                return None
            node = reader.node if isinstance(reader, Use) else reader
            if node in OBSERVES:
                found.append(reader)
                continue
            if isinstance(node, InsertNode) or node in CASTS_LIKE:
                return None
            behind = self.asking(node.out)
            if behind is None:
                return None
            found += behind
        return found
