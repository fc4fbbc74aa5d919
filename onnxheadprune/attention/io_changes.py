"""The changes of a model's inputs and outputs by a cut, as data and in words."""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune.edit.plan import IoChange, RenamedIo
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.swept import Sweep
from onnxheadprune.model.graph.view import GraphView


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
    """Return what becomes of one graph input or output, axis by axis.

    Args:
        view: an annotated view of the model.
        name: of the input or output.
        live: what is left of it.
    """
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
