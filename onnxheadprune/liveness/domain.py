"""The two domains of live sets: the algebras that a sweep can use.

*Masks* mark needed elements. All others are cut off, so the needs of all readers count, and the rest of a tensor must
be a tensor again. *Labels* mark the users of elements (which heads read this?). They cut nothing: readers without
labels are ignored, and labels that meet are united.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np

from onnxheadprune.liveness.index_notation import contraction_of, kernel_of
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.model.graph.view import Node


@dataclass(frozen=True)
class Masks:
    """Masks: true for needed elements.

    Attributes:
        cuts: whether elements that are not live are cut off. Then readers without a demand need all that they read in
            the original, and model inputs and outputs stay unchanged unless allowed otherwise.
        units: the name of the positions of live sets in refusals.
    """

    cuts: ClassVar[bool] = True
    units: str = "units"

    def says_nothing(self, live: Live) -> bool:
        """Return whether everything is needed, so that a demand need not be followed upstream."""
        return live.is_full

    def united(self, first: Live, second: Live) -> Live:
        """Return the union of the demands of two readers of one value."""
        return first | second

    def narrowed(self, live: Live) -> Live:
        """The kept part of a value: the mask itself if it is dense, else the smallest outer product that covers it."""
        return live.as_mask().dense_closure()

    def refused(self, live: Live) -> Live:
        """Everything: nothing can be cut off an output if the operator's rule refuses."""
        return FULL

    def is_ragged(self, live: Live) -> bool:
        """Return whether it is no outer product of one mask per axis, so that only rules for ragged masks accept it."""
        return not live.is_product

    def can_be_kept(self, live: Live) -> bool:
        """Return whether it is dense: the rest is rectangular."""
        return live.dense_shape() is not None

    def passed(self, node: Node, inputs: Mapping[int, Live]) -> Mapping[int, Live]:
        """The demands on the inputs of a node, by index, to follow further upstream: all of them."""
        return inputs


@dataclass(frozen=True)
class Labels:
    """Labels of users: numbers of positions, or sets of labels as Python integers, one bit each.

    Attributes:
        everyone: the bits of all labels together, which carry no information. 0 where labels are numbers of positions.
    """

    cuts: ClassVar[bool] = False
    everyone: int = 0
    units: str = "units"

    def says_nothing(self, live: Live) -> bool:
        """Return whether all positions are alike: without any label, or each with all of them."""
        return live.is_full and (live.is_mask or live.array == self.everyone)

    def united(self, first: Live, second: Live) -> Live:
        """The labels of both; a mask has all of them where it is live."""
        return self._labelled(first) | self._labelled(second)

    def _labelled(self, live: Live) -> Live:
        if not live.is_mask:
            return live
        labels = np.empty(live.array.shape, dtype=object)
        labels[...] = 0
        labels[live.array] = self.everyone
        return Live(live.axes, labels, live.repeats)

    def narrowed(self, live: Live) -> Live:
        """The same: nothing is cut, so any form is allowed."""
        return live

    def refused(self, live: Live) -> Live:
        """The same: labels stay valid where they end."""
        return live

    def is_ragged(self, live: Live) -> bool:
        """Never: rules pass labels on one by one."""
        return False

    def can_be_kept(self, live: Live) -> bool:
        """Always: nothing is cut."""
        return True

    def passed(self, node: Node, inputs: Mapping[int, Live]) -> Mapping[int, Live]:
        """All but those on inputs that weights mix completely, which no longer belong to one head."""
        convolution = kernel_of(node)
        kernel = None if convolution is None else node.input(convolution)
        if kernel is not None and kernel.is_constant:
            # Channels are told apart by the kernel; what lies along other axes (heads in the batch) goes on.
            data = inputs.get(0, FULL)
            apart = bool(data.axes) and 1 not in data.axes
            return {index: live for index, live in inputs.items() if index > 0 or apart}
        product = contraction_of(node)
        operands = () if product is None else product.indices
        weights = [i for i in operands if (value := node.input(i)) is not None and value.is_constant]
        if not weights:
            return inputs
        return {index: live for index, live in inputs.items() if live.axes or index in weights}


Domain: TypeAlias = Masks | Labels
MASKS = Masks()
POSITIONS = Labels()
"""Labels that number positions, as site tracing sends them."""
