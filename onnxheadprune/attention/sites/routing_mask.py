"""The mask of experts: minus infinity as the score of each one that is out, in the original, by its number.

It stands at the output of the router, which scores experts in their order, and again where a choice is made, for scores
that a sigmoid or a correction has moved since. Nothing of it is taken from what a cut slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxheadprune.attention.sites.routing import Routing
from onnxheadprune.edit import nodes
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.consumers import looks_only
from onnxheadprune.liveness.live import Live
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.tensors import FLOATS

NEVER, NEVER_HALF = -1e30, -3e4
"""Scores that no expert is chosen by: their exponential is zero, and a product with zero is a number still."""


@dataclass(frozen=True, eq=False)
class Gate:
    """An input with scores of experts, of which a mask keeps some away from its node."""

    node: Node
    index: int  # of the input
    live: Live  # labels of its axes with experts, as `Meeting` has them
    routing: Routing  # of the mixture
    moved: bool = False  # see `Meeting`

    @property
    def value(self) -> Value:
        """The scores."""
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
        return self.routing.left(self.live, gone).spread(len(self.value.shape or ()))

    def closing(self) -> tuple[TensorProto, list[NodeProto]]:
        """The score of an expert that is out, and the nodes that put it in place of others where the mask is false."""
        dtype = helper.tensor_dtype_to_np_dtype(self.value.elem_type)
        out = numpy_helper.from_array(np.asarray(never(self.value.elem_type), dtype), f"{self.name}_never")
        created = nodes.choose(self.node.ref, self.mask, self.value.name, out.name, self.name)
        return out, nodes.as_protos(created, self.node.scope.opset)


def gates_of(routing: Routing) -> list[Gate]:
    """The inputs by which a router's choice can be kept from experts.

    Raises:
        RefusedError: if a choice is made by scores that are not real numbers.
    """
    choices = {(item.node, item.index): item for item in routing.meetings if item.chooses}
    router = routing.router.out
    found = [
        Gate(use.node, use.input_index, routing.live, routing)
        for use in router.consumers
        if (use.node, use.input_index) not in choices and router.elem_type in FLOATS and not looks_only(use)
    ]
    for (node, index), item in choices.items():
        found.append(Gate(node, index, item.live, routing, item.moved))
        if found[-1].value.elem_type not in FLOATS:
            raise RefusedError(f"{node.label} chooses experts by scores that are not real numbers")
    return found


def never(elem_type: int) -> float:
    """The number that stands for minus infinity in values of a type."""
    return NEVER_HALF if elem_type == TensorProto.FLOAT16 else NEVER
