"""The change of the original when its numbers are rounded differently, measured before a difference is an error.

Where activations are rounded to a few quantized values, or the largest of some numbers decides (routers, TopK), the
last bit of a sum can move the outputs by far more than a bit. So noise of that size is added where the pruned model may
sum in another order, and nowhere else: the outputs then move as far as two right models can lie apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from onnx import GraphProto, NodeProto

from onnxheadprune.attention.planning import Planning
from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import SliceTensor
from onnxheadprune.errors import InferenceError
from onnxheadprune.model.bodies import bodies_of
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.messages import copied, insert_nodes
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.runtime import Session
from onnxheadprune.runtime.deterministic import NOISE
from onnxheadprune.runtime.feeds.generate import Feed, Outputs, narrowed
from onnxheadprune.runtime.tolerances import POWER, QUANTIZED, Tolerance
from onnxheadprune.validation.compare import worst

DRAWS = 24
"""Runs with other noise on one feed. A number that two right models round differently moves in half of them."""
MOST_BYTES = 2**27
"""Of the outputs of all draws; fewer are made of larger outputs."""
MOST_FEEDS = 32
"""Feeds on which it is measured; further ones get the largest movement of these."""
MOST = 0.1
"""More than this part of the scale of an output is never put down to rounding."""

Open = Callable[[LoadedModel, str], Session]


class Sensitivity:
    """The change of the masked reference by rounding alone, measured where a difference needs it.

    Attributes:
        largest: the largest movement so far, relative to the scale of an output; None before any was measured.
    """

    def __init__(self, masked: LoadedModel, planning: Planning, tolerance: Tolerance, session: Open) -> None:
        """Measure nothing yet."""
        self.largest: float | None = None
        self._masked, self._planning, self._tolerance, self._open = masked, planning, tolerance, session
        self._sessions: tuple[Session, Session] | None = None
        self._feeds = 0

    def allowed(self, plain: float, error: float, feed: Feed, actual: Outputs, names: Sequence[str]) -> float:
        """The tolerance on a feed: the usual one, or how far rounding alone moves the reference if that explains more.

        It explains outputs that lie among those of the reference with noise, as near to one of them as these are to
        each other. A wrong cut may move the outputs no further than noise does, but elsewhere.

        Args:
            error: the difference that was seen, relative to the scale of the output.
            actual: the outputs that differ, in the pruned model's shapes and under its names.
        """
        if error <= plain or not math.isfinite(error):
            return plain
        if self._feeds == MOST_FEEDS:
            return max(plain, self.largest or 0.0)
        self._feeds += 1
        reference, draws = self._drawn(feed, names)
        gaps = [_apart(draw, reference, names) for draw in draws]
        moved = max(filter(math.isfinite, gaps), default=0.0)
        self.largest = max(self.largest or 0.0, moved)
        others = [reference, *draws]
        spread = max((_nearest(draw, others, names) for draw in draws), default=0.0)
        # Rounding moves a steep float model, which has no steps, by a few of the tolerances of exact settings, with
        # which noise is added; a right cut moves it by far less.
        is_stepped = self._tolerance.precision == QUANTIZED.precision
        least = plain if is_stepped else POWER * self._tolerance.exact
        if moved <= least or _nearest(actual, others, names) > plain + spread:
            return plain
        return plain + min(moved, MOST)

    def _drawn(self, feed: Feed, names: Sequence[str]) -> tuple[Outputs, list[Outputs]]:
        """The outputs of the masked reference, without and with noise, in the pruned model's shapes."""
        try:
            still, noisy = self._both()
            reference = self._compared(still, feed, names)
            size = sum(value.nbytes for value in reference.values())
            count = min(DRAWS, MOST_BYTES // max(size, 1))
            draws = [self._compared(noisy, feed, names) for _ in range(count)]
        except InferenceError:
            # What cannot be measured excuses nothing.
            return {}, []
        return reference, draws

    def _compared(self, session: Session, feed: Feed, names: Sequence[str]) -> Outputs:
        outputs = narrowed(session.run(feed), self._planning.io)
        return {name: outputs[name] for name in names}

    def _both(self) -> tuple[Session, Session]:
        if self._sessions is None:
            noisy = with_noise(self._masked, self._planning, self._tolerance.noise)
            self._sessions = (
                self._open(self._masked, "the masked reference"),
                self._open(noisy, "the masked reference with noise"),
            )
        return self._sessions


def _apart(left: Outputs, right: Outputs, names: Sequence[str]) -> float:
    return worst(left, right, tuple(names))[1].relative


def _nearest(outputs: Outputs, others: Sequence[Outputs], names: Sequence[str]) -> float:
    """The distance of outputs from the nearest of others; without any, infinite."""
    return min((_apart(outputs, other, names) for other in others if other is not outputs), default=math.inf)


def with_noise(masked: LoadedModel, planning: Planning, size: float) -> LoadedModel:
    """The masked reference with random noise, other one in each run.

    Args:
        size: of the noise, relative to the largest absolute element of what it is added to.
    """
    copy = copied(masked.proto)
    _Noise(_summed_otherwise(planning), size, planning.view.main.opset).add_to(copy.graph)
    return masked.changed(copy)


def _summed_otherwise(planning: Planning) -> dict[str, int]:
    """Float values that a pruned model may sum in another order, with their types: what reads tensors that are cut."""
    cut = {item.edit.name for item in planning.plan.edits if isinstance(item.edit, SliceTensor)}
    found = [projection.node for site in planning.touched for projection in site.projections]
    for node in planning.view.nodes:
        if any(value is not None and value.name in cut for value in node.inputs):
            outputs = [value.name for value in node.results]
            if all(value is None or value.is_constant for value in node.outputs):
                cut.update(outputs)
            else:
                found.append(node)
    values = (value for node in found for value in node.results)
    return {value.name: value.elem_type for value in values if value.elem_type in FLOATS}


class _Noise:
    """Adds noise to values of one model.

    Attributes:
        count: values that got some: each has a seed of its own.
    """

    def __init__(self, types: Mapping[str, int], size: float, opset: int) -> None:
        self.count = 0
        self._types, self._size, self._opset = types, size, opset

    def add_to(self, graph: GraphProto) -> None:
        """Add it in place, in bodies too."""
        insert_nodes(graph, {position + 1: self._behind(node) for position, node in enumerate(graph.node)})

    def _behind(self, node: NodeProto) -> list[NodeProto]:
        """Rename outputs of a node, and return what adds noise to them under their own names."""
        for body in bodies_of(node):
            self.add_to(body)
        behind: list[NodeProto] = []
        for index, name in enumerate(node.output):
            if name in self._types:
                node.output[index] = f"{name}{NOISE}"
                self.count += 1
                place = ("", self._opset)
                added = nodes.with_noise(
                    place, node.output[index], self._types[name], self._size, self.count, name
                )
                behind += map(nodes.as_proto, added)
        return behind
