"""The mask of experts: minus infinity as the score of each one that is out, in the original, by its number.

It stands at the output of the router, which scores experts in their order, and again where a choice is made, for scores
that a sigmoid or a correction has moved since. Nothing of it is taken from what a cut slices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnxheadprune.attention.sites.kinds import MixtureSite
from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.observers import looks_only
from onnxheadprune.model.graph.view import Node
from onnxheadprune.model.tensors import FLOATS

NEVER, NEVER_HALF = -1e30, -3e4
"""Scores that no expert is chosen by: their exponential is zero, and a product with zero is a number still."""


def masked_scores(site: Site, gone: Sequence[int]) -> Iterator[tuple[Node, int, npt.NDArray[np.bool_]]]:
    """Yield each input that is masked, and which of its scores stay, of size 1 along axes without experts.

    Raises:
        RefusedError: if a choice is made by scores that are not real numbers.
    """
    assert isinstance(site, MixtureSite)
    routing = site.routing
    choices = {(item.node, item.index): item.live for item in routing.meetings if item.chooses}
    router = routing.router.out
    numbers = np.ones(routing.experts, np.bool_)
    numbers[list(gone)] = False
    for use in router.consumers:
        key = use.node, use.input_index
        if key not in choices and router.elem_type in FLOATS and not looks_only(use):
            yield *key, Live.over((routing.axis,), numbers).spread(len(router.shape or ()))
    for (node, index), live in choices.items():
        value = node.inputs[index]
        assert value is not None
        if value.elem_type not in FLOATS:
            raise RefusedError(f"{node.label} chooses experts by scores that are not real numbers")
        yield node, index, routing.left(live, gone).spread(len(value.shape or ()))


def never(elem_type: int) -> float:
    """The number that stands for minus infinity in values of a type."""
    return NEVER_HALF if elem_type == TensorProto.FLOAT16 else NEVER
