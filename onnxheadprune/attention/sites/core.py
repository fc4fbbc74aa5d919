"""The results of tracing: the products that heads are made in, and the nodes that kept labels from getting there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

from onnxheadprune.attention.sites.within import Classes
from onnxheadprune.liveness.live import Array, Live, Runs
from onnxheadprune.liveness.registry import Refusal
from onnxheadprune.model.graph.view import Node

Heads: TypeAlias = tuple[frozenset[int], ...]
"""For each position of the head axes, the labels found there."""


@dataclass(frozen=True, eq=False)
class Core:
    """A product reached by labels.

    Attributes:
        node: the product, or a fused attention node.
        heads: for each position of the head axes, the labels found there.
        head_axes: axes of the core's output that enumerate heads.
        feature_axes: axes of the core's output that lie within a head.
        tokens: how many positions of a head are told apart that are no features: tokens that are summed over too.
        runs: of the head axes along which a head is a run of positions, how many these are.
    """

    node: Node
    heads: Heads
    head_axes: tuple[int, ...]
    feature_axes: tuple[int, ...]
    tokens: int = 1
    runs: Runs = ()

    @property
    def axes(self) -> tuple[tuple[int, ...], tuple[int, ...], Runs]:
        """The axes of its output that tell heads apart, and those within a head."""
        return self.head_axes, self.feature_axes, self.runs

    def labelled(self, labels: Array) -> Live:
        """Return labels of the head axes, and of the first feature axis if they have one more, as a live set."""
        axes = (*self.head_axes, *self.feature_axes[: labels.ndim - len(self.head_axes)])
        return Live.over(axes, labels, self.runs)


def is_alike(cores: Iterable[Core]) -> bool:
    """Return whether all labelled positions have the same set of labels."""
    return len({labels for core in cores for labels in core.heads if labels}) == 1


@dataclass(frozen=True)
class Trace:
    """Everything that one axis leads to.

    Attributes:
        cores: products with heads and features along it.
        mixes_heads: whether it leads to attention maps along their heads.
        refusals: of operators that labels did not pass.
        blocked: nodes at which labels stopped.
        reduced: nodes that reduce other axes on the way, with the labels of what they compute.
        shared: whether it leads through a layer that treats all heads alike.
    """

    cores: tuple[Core, ...] = ()
    mixes_heads: bool = False
    refusals: tuple[Refusal, ...] = ()
    blocked: tuple[Node, ...] = ()
    reduced: tuple[tuple[Node, Live], ...] = ()
    shared: bool = False

    def __or__(self, other: Trace) -> Trace:
        return Trace(
            (*self.cores, *(core for core in other.cores if core not in self.cores)),
            self.mixes_heads or other.mixes_heads,
            (*self.refusals, *(item for item in other.refusals if item not in self.refusals)),
            (*self.blocked, *(item for item in other.blocked if item not in self.blocked)),
            (*self.reduced, *(item for item in other.reduced if item not in self.reduced)),
            self.shared or other.shared,
        )

    @property
    def is_alike(self) -> bool:
        """True if the trace reaches cores but does not distinguish heads."""
        return is_alike(self.cores)

    def told_apart(self, classes: Classes | None) -> Trace:
        """The same with every label replaced by those that it stands for."""
        if classes is None or not self.cores:
            return self
        cores = tuple(
            replace(
                core,
                heads=tuple(frozenset().union(*(classes[label] for label in head)) for head in core.heads),
            )
            for core in self.cores
        )
        return replace(self, cores=cores)
