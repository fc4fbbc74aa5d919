"""A copy of a model with fixed input sizes, in which near misses are looked for again."""

from __future__ import annotations

from onnx import ModelProto, ValueInfoProto

from onnxheadprune.attention.sites.structural import find_structural
from onnxheadprune.errors import HeadPruneError
from onnxheadprune.model.graph.restated import restated
from onnxheadprune.model.graph.view import GraphView, Node
from onnxheadprune.model.messages import copied
from onnxheadprune.operators import annotated

TRIED = ((1, 16), (2, 12), (1, 64))
"""Lengths of the first axis of an input and of all others, where these are open, one try after the other."""


class FixedSizes:
    """A copy of a model with fixed input sizes, analysed on first use."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._known: dict[tuple[int, int], frozenset[str]] = {}

    def tells_heads(self, core: Node) -> bool:
        """Return whether a product of attention weights and values is the core of a site with several heads there."""
        return any(core.ref in self._cores(sizes) for sizes in TRIED)

    def _cores(self, sizes: tuple[int, int]) -> frozenset[str]:
        """The cores of all sites that are found with these sizes; none where the model rejects them."""
        if sizes not in self._known:
            fixed = restated(self._model, [_fixed(info, *sizes) for info in self._model.graph.input])
            try:
                sites, _ = find_structural(annotated(GraphView(fixed)))
            except (HeadPruneError, ValueError):
                sites = []
            self._known[sizes] = frozenset(
                core.ref for site in sites if site.num_units > 1 for core in site.cores
            )
        return self._known[sizes]


def open_axes(info: ValueInfoProto) -> list[int]:
    """The axes of an input with symbolic length."""
    dims = info.type.tensor_type.shape.dim
    return [axis for axis, dim in enumerate(dims) if not dim.HasField("dim_value")]


def _fixed(info: ValueInfoProto, batch: int, length: int) -> ValueInfoProto:
    made = copied(info)
    for axis in open_axes(info):
        made.type.tensor_type.shape.dim[axis].dim_value = length if axis else batch
    return made
