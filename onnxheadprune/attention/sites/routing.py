"""A router and all that a cut of its experts begins with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from onnxheadprune.attention.sites.expert_numbers import Renumbered, Single
from onnxheadprune.attention.sites.routing_parts import End
from onnxheadprune.edit.edits import Edit, SetInput
from onnxheadprune.liveness.live import DEAD, FULL, Live
from onnxheadprune.liveness.registry import Answer, Refusal
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.swept import Seed, Sweep
from onnxheadprune.model.graph.view import Node, Value

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Meeting:
    """An input along which experts lie, and whose node computes the same of fewer of them.

    Attributes:
        node: the node.
        index: of the input.
        live: see `Scores`.
        chooses: whether scores are compared there, so that minus infinity keeps an expert out.
        moved: whether an expert that the router gives minus infinity may have a higher score there than others.
    """

    node: Node
    index: int
    live: Live
    chooses: bool = False
    moved: bool = False

    @property
    def is_stored(self) -> bool:
        """True if the input is stored."""
        value = self.node.inputs[self.index]
        return value is not None and value.is_constant


@dataclass(frozen=True, eq=False)
class Picks:
    """A value by which each token has its experts.

    Attributes:
        value: numbers of the chosen, or scores.
        axis: along which they lie.
        highest: how many of the highest scores are chosen; 0 where the value has the numbers.
    """

    value: Value
    axis: int
    highest: int = 0


@dataclass(eq=False)
class Routing:
    """All that a cut of experts begins with.

    Attributes:
        router: the linear layer whose outputs are the scores.
        axis: of its output that has a position per expert.
        experts: how many there are.
        meetings: inputs along which experts lie.
        through: per node that no rule lets them pass, the labels of its output and of inputs with the same axis.
        renumbered: stored numbers that name all experts.
        singles: stored numbers that name one.
        ends: where experts that are networks of their own are added up.
        picks: what tells which are chosen for a token.
        chosen: how many are chosen for a token.
        least: how many must be left of all, and per set of positions that one choice is made from.
        picked: stored weights or operators that have an axis of experts.
        stop: why no expert can go, None if some can.
    """

    router: Node
    axis: int
    experts: int
    meetings: list[Meeting] = field(default_factory=list)
    through: dict[Node, tuple[Live, Mapping[int, Live]]] = field(default_factory=dict)
    renumbered: list[Renumbered] = field(default_factory=list)
    singles: list[Single] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    picks: list[Picks] = field(default_factory=list)
    chosen: int = 0
    least: list[tuple[Live, int, int]] = field(default_factory=list)
    picked: list[Node] = field(default_factory=list)
    stop: Refusal | None = None

    def alive(self, gone: Sequence[int], most: int) -> Mask:
        """A mask of the labels that stay, [labels up to `most`]."""
        mask = np.ones(max(most, self.experts) + 1, np.bool_)
        mask[np.asarray(gone, np.int64) + 1] = False
        return mask

    def bypasses(self, gone: Sequence[int]) -> Iterator[Edit]:
        """Yield edits by which what is added up comes without some experts."""
        without = {end.node: end.kept for end in self.ends if end.expert in gone}
        for node in without:
            left = node.out
            while left.producer is not None and left.producer in without:
                left = without[left.producer]
            for use in node.out.consumers:
                if use.node not in without:
                    yield SetInput(use.node.ref, use.input_index, left.name)

    @cached_property
    def _networks(self) -> Sweep:
        """The sweep in which all experts that are networks of their own are removed."""
        return sweep([Seed(end.node, index, DEAD, "") for end in self.ends for index in end.indices])

    def outer(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Axes of tokens in the router's output, which has this shape."""
        return tuple(size for axis, size in enumerate(shape) if axis != self.axis)

    def holds(self, nodes: Iterable[Node]) -> bool:
        """Return whether some nodes all belong to experts that are networks of their own."""
        return bool(self.ends) and all(self._networks.kept.get(node.out, FULL).is_dead for node in nodes)

    def answers(self, gone: Sequence[int]) -> dict[Node, Answer]:
        """Return what the nodes answer that no rule lets scores pass."""
        return {
            node: Answer(
                {index: self.left(source, gone) for index, source in inputs.items()},
                kept=tuple(self.left(live, gone) for _ in node.outputs),
            )
            for node, (live, inputs) in self.through.items()
        }

    def why_too_few(self, gone: Sequence[int]) -> str | None:
        """Return why a choice would have too few experts to choose from."""
        # A choice that follows another one finds its experts taken.
        every = (Live.numbered(0, self.experts), 0, self.chosen)
        for live, axis, count in (*self.least, every):
            alive = self.alive(gone, int(live.array.max()))[live.array]
            left = int(np.count_nonzero(alive, axis=live.axes.index(axis)).min())
            if left < count:
                return f"{left} would be left to choose {count} from for each token"
        return None

    def left(self, live: Live, gone: Sequence[int]) -> Live:
        """Labels as a mask without some experts."""
        return Live.over(live.axes, self.alive(gone, int(live.array.max()))[live.array])
