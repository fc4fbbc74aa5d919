"""A router and all that a cut of its experts begins with, also the stored numbers that it changes; and its mask.

The mask is minus infinity as the score of each expert that is out, in the original, by its number. It stands at the
output of the router, which scores experts in their order, and again where a choice is made, for scores that a sigmoid
or a correction has moved since. Nothing of it is taken from what a cut slices.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxheadprune.attention.sites.zeros import NOTHING, Number
from onnxheadprune.edit import nodes
from onnxheadprune.edit.edits import MARK, AddConstant, Edit, SetInput
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.consumers import looks_only
from onnxheadprune.liveness.live import DEAD, FULL, Live
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.sweep_result import Seed, Sweep
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.tensors import FLOATS


@dataclass(frozen=True)
class ExpertScores:
    """A value with an axis of experts."""

    # per position the number of its expert, from 1 on; larger numbers for positions that always stay
    live: Live
    out: Number  # at an expert whose score is minus infinity


@dataclass(frozen=True)
class Part:
    """A value of one expert, or the sum of those of several."""

    experts: frozenset[int]  # their numbers
    out: Number = NOTHING  # where they are out; None where that is some constant


@dataclass(frozen=True, eq=False)
class End:
    """A node that adds what an expert, or the sum of several, gives to something else."""

    experts: frozenset[int]  # their numbers
    node: Node
    indices: tuple[int, ...]  # inputs that are theirs
    kept: Value  # what the sum is without them


@dataclass(frozen=True, eq=False)
class StoredNumbers:
    """Numbers of experts that are stored: what a cut changes of them."""

    node: Node  # what reads them
    index: int  # of the input with them
    # the numbers once some experts are removed, None where they stay
    without: Callable[[Collection[int]], npt.NDArray[Any] | None]

    def edits(self, gone: Collection[int]) -> Iterator[Edit]:
        """Yield the edits without the experts in `gone`."""
        made = self.without(gone)
        if made is not None:
            name = f"{self.node.out.name}/{MARK}_experts"
            yield AddConstant.of(self.node.scope.ref, name, made)
            yield SetInput(self.node.ref, self.index, name)


def one_hot(node: Node, experts: int) -> tuple[StoredNumbers, ExpertScores] | None:
    """The axis of a OneHot of numbers of experts, None for other nodes and where it is too short for all of them."""
    shape, depth, values = node.out.shape, node.literal(1), node.literal(2)
    if not is_a(node, "OneHot") or shape is None or depth is None or values is None:
        return None
    length = int(depth.reshape(-1)[0])
    axis = int(node.attribute("axis", -1)) % len(shape)
    if length < experts or shape[axis] != length:
        return None
    numbers = StoredNumbers(node, 1, lambda gone: np.full_like(depth, length - len(gone)))
    return numbers, ExpertScores(Live.numbered(axis, length), float(values[0]))


def compared(node: Node, index: int, experts: int) -> tuple[StoredNumbers, ExpertScores | Part] | None:
    """A comparison of numbers of experts with that of one, or with those of all in a row; None for other nodes."""
    shape, source = node.out.shape, node.shape(index)
    listed = node.literal(1 - index) if is_a(node, "Equal") else None
    if shape is None or source is None or listed is None or listed.dtype.kind not in "iu":
        return None
    row = listed.reshape(-1)

    def without(gone: Collection[int]) -> npt.NDArray[Any] | None:
        left = np.setdiff1d(np.arange(experts), list(gone))
        new = np.searchsorted(left, row[np.isin(row, left)]).astype(row.dtype)
        if not new.size or np.array_equal(new, row):
            return None
        return new.reshape([new.size if dim == row.size else dim for dim in listed.shape])

    numbers = StoredNumbers(node, 1 - index, without)
    if row.size == 1:
        return (numbers, Part(frozenset(row.tolist()))) if 0 <= row[0] < experts else None
    if max(listed.shape) != row.size or not np.array_equal(row, np.arange(experts)):
        return None
    axis = len(shape) - listed.ndim + listed.shape.index(experts)
    own = axis - (len(shape) - len(source))
    if shape[axis] != experts or (own >= 0 and source[own] != 1):
        return None
    return numbers, ExpertScores(Live.numbered(axis, experts), NOTHING)


def stays(live: Live, gone: Collection[int]) -> Live:
    """Labels as a mask without some experts."""
    return Live.over(live.axes, ~np.isin(live.array, np.asarray([*gone], np.int64) + 1))


@dataclass(frozen=True, eq=False)
class Meeting:
    """An input along which experts lie, and whose node computes the same of fewer of them.

    Of scores that are compared there, a mask keeps some away from the node.
    """

    node: Node
    index: int  # of the input
    live: Live  # labels of its axes with experts
    chooses: bool = False  # whether scores are compared there, so that minus infinity keeps an expert out
    # whether an expert that the router gives minus infinity may have a higher score there than others
    moved: bool = False

    @property
    def value(self) -> Value:
        """The input."""
        value = self.node.inputs[self.index]
        assert value is not None
        return value

    @property
    def name(self) -> str:
        """The name of the masked scores."""
        return f"{self.value.name}/onnxheadprune_routed{self.node.index}_{self.index}"

    @property
    def mask(self) -> str:
        """The name of the mask."""
        return f"{self.name}_alive"

    def alive(self, gone: Sequence[int]) -> npt.NDArray[np.bool_]:
        """The mask without some experts, of size 1 along axes without experts."""
        return stays(self.live, gone).spread(len(self.value.shape or ()))

    def closing(self) -> tuple[TensorProto, list[NodeProto]]:
        """The score of an expert that is out, and the nodes that put it in place of others where the mask is false."""
        dtype = helper.tensor_dtype_to_np_dtype(self.value.elem_type)
        out = numpy_helper.from_array(np.asarray(never(self.value.elem_type), dtype), f"{self.name}_never")
        created = nodes.new(self.node.ref, "Where", (self.mask, self.value.name, out.name), self.name)
        return out, [nodes.as_proto(created, self.node.scope.opset)]


@dataclass(frozen=True, eq=False)
class Picks:
    """A value by which each token has its experts."""

    value: Value  # numbers of the chosen, or scores
    axis: int  # along which they lie
    chosen: int  # how many are chosen
    by_score: bool = False  # whether these have the highest scores, which the value holds


@dataclass(eq=False)
class Routing:
    """All that a cut of experts begins with."""

    router: Node  # the linear layer whose outputs are the scores
    live: Live  # labels of its outputs; several of one expert where that has several slots
    experts: int  # how many there are
    meetings: list[Meeting] = field(default_factory=list)  # inputs along which experts lie
    # per node that no rule lets them pass, the labels of its output and of inputs with the same axis
    through: dict[Node, tuple[Live, Mapping[int, Live]]] = field(default_factory=dict)
    numbers: list[StoredNumbers] = field(default_factory=list)  # that name experts
    ends: list[End] = field(default_factory=list)  # where experts that are networks of their own are added up
    scored: set[Value] = field(default_factory=set)  # scores of all experts or of single ones
    picks: list[Picks] = field(default_factory=list)  # what tells which are chosen for a token
    chosen: int = 0  # how many are chosen for a token; 0 where each token has all of them
    # how many must be left of all, and per set of positions that one choice is made from
    least: list[tuple[Live, int, int]] = field(default_factory=list)
    # stored weights or operators that have an axis of experts
    picked: list[Node] = field(default_factory=list)
    stop: Refusal | None = None  # why no expert can go, None if some can

    @property
    def axis(self) -> int:
        """The axis of the router's output with the scores of experts."""
        return self.live.axes[0]

    @property
    def per_token(self) -> int:
        """The number of experts that each token goes through."""
        return self.chosen or self.experts

    def bypasses(self, gone: Sequence[int]) -> Iterator[Edit]:
        """Yield edits by which what is added up comes without some experts."""
        ending = [end for end in self.ends if end.experts <= set(gone)]
        without = {end.node: end.kept for end in ending}
        for node in without:
            left = node.out
            while left.producer is not None and left.producer in without:
                left = without[left.producer]
            for use in node.out.consumers:
                if use.node not in without:
                    yield SetInput(use.node.ref, use.input_index, left.name)

    @cached_property
    def networks(self) -> Sweep:
        """The sweep in which all experts that are networks of their own are removed."""
        return sweep([Seed(end.node, index, DEAD, "") for end in self.ends for index in end.indices])

    def outer(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Axes of tokens in the router's output, which has this shape."""
        return tuple(size for axis, size in enumerate(shape) if axis != self.axis)

    def holds(self, nodes: Iterable[Node]) -> bool:
        """Return whether some nodes all belong to experts that are networks of their own."""
        return bool(self.ends) and all(self.networks.kept.get(node.out, FULL).is_dead for node in nodes)

    def gates(self) -> list[Meeting]:
        """The inputs by which its choice can be kept from experts.

        Raises:
            RefusedError: if a choice is made by scores that are not real numbers.
        """
        found = {(item.node, item.index): item for item in self.meetings if item.chooses}
        wrong = next((item for item in found.values() if item.value.elem_type not in FLOATS), None)
        if wrong is not None:
            raise RefusedError(f"{wrong.node.label} chooses experts by scores that are not real numbers")
        router = self.router.out
        own = [use for use in router.consumers if router.elem_type in FLOATS and not looks_only(use)]
        first = [Meeting(*use, self.live, chooses=True) for use in own if tuple(use) not in found]
        return [*first, *found.values()]


MINUS_INFINITY, MINUS_INFINITY_HALF = -1e30, -3e4
"""Scores that no expert is chosen by: their exponential is zero, and a product with zero is a number still."""


def never(elem_type: int) -> float:
    """The number that stands for minus infinity in values of a type."""
    return MINUS_INFINITY_HALF if elem_type == TensorProto.FLOAT16 else MINUS_INFINITY
