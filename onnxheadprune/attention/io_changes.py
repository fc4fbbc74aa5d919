"""The changes of a model's inputs and outputs: those that a cut may make, and those that it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from onnxheadprune.edit.plan import IoChange, RenamedIo
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.swept import Sweep
from onnxheadprune.model.graph.view import GraphView

Cache: TypeAlias = Literal["narrow", "keep", "renumber"]


@dataclass(frozen=True)
class Contract:
    """Consent to change the shapes that callers of the model rely on.

    Attributes:
        cache: what happens to past and present inputs and outputs: "narrow" removes the heads from them, "keep" keeps
            their shapes at the price of an edge gather, "renumber" also drops the cache of attention that goes as a
            whole, and closes the gap in the names of the others.
        allow_io_change: also narrow graph inputs and outputs that are no cache, where they carry heads.
        renumbered_sites: indices of the sites whose caches may be dropped, None for all.
    """

    cache: Cache = "narrow"
    allow_io_change: bool = False
    renumbered_sites: frozenset[int] | None = None


AS_IT_IS = Contract()
"""No consent is given beyond what every cut needs: caches follow the heads."""


def narrowed_io(swept: Sweep) -> dict[str, Live]:
    """Return what is live of each graph input and output that gets narrower."""
    return {
        value.name: live
        for value, live in swept.narrowed()
        if value.scope.parent is None
        and (value.is_graph_input or value.is_graph_output)
        and not value.holds_tensor
    }


def io_changes(view: GraphView, name: str, live: Live) -> tuple[IoChange, ...]:
    """Return what becomes of one graph input or output, axis by axis."""
    value = view.main.values[name]
    assert value.shape is not None
    role = "input" if value.is_graph_input else "output"
    changes = []
    for axis in live.axes:
        before = value.shape[axis]
        after = live.narrow(before, axis)
        # Rows of layers that keep other heads each stay as many.
        if after != before:
            changes.append(IoChange(role, name, axis, _told(before), _told(after)))
    return tuple(changes)


def _told(size: object) -> int | str:
    return size if isinstance(size, int) else str(size)


def io_sentence(changes: Sequence[IoChange]) -> str:
    """The changes of one input or output in words."""
    told = [f"{change.before} -> {change.after} on axis {change.axis}" for change in changes]
    return f"{changes[0].role} {changes[0].name}: {', '.join(told)}"


def renamed_sentence(change: RenamedIo) -> str:
    """A new name in words."""
    what = "goes" if change.after is None else f"is called {change.after}"
    return f"{change.role} {change.name}: {what}"
