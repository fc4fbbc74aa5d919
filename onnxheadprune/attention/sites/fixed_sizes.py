"""A second analysis with inputs of fixed sizes, for heads that cannot be followed along axes of unknown length."""

from __future__ import annotations

from onnx import ModelProto, ValueInfoProto

from onnxheadprune.attention.sites.structural import find_structural
from onnxheadprune.errors import HeadPruneError
from onnxheadprune.model.graph.restated import restated
from onnxheadprune.model.graph.view import GraphView, Node
from onnxheadprune.operators import annotated

TRIED = ((1, 16), (2, 12), (1, 64))
"""Lengths of the first axis of an input and of all others, where these are open, one try after the other."""


class FixedSizes:
    """One model with fixed sizes, analysed when it is first asked about.

    Args:
        model: the model.
    """

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._tried = TRIED if any(map(_symbols, model.graph.input)) else ()
        self._known: dict[tuple[int, int], frozenset[str]] = {}

    def tells_heads(self, core: Node) -> bool:
        """Return whether a product of attention weights and values is the core of a site there."""
        return any(core.ref in self._cores(sizes) for sizes in self._tried)

    def _cores(self, sizes: tuple[int, int]) -> frozenset[str]:
        """The cores of all sites that are found with such sizes; none where the model does not take them."""
        if sizes not in self._known:
            fixed = restated(self._model, [_fixed(info, *sizes) for info in self._model.graph.input])
            try:
                sites, _ = find_structural(annotated(GraphView(fixed)))
            except (HeadPruneError, ValueError):
                sites = []
            self._known[sizes] = frozenset(core.ref for site in sites for core in site.cores)
        return self._known[sizes]


def _symbols(info: ValueInfoProto) -> list[int]:
    """The axes of an input whose length is open."""
    dims = info.type.tensor_type.shape.dim
    return [axis for axis, dim in enumerate(dims) if not dim.HasField("dim_value")]


def _fixed(info: ValueInfoProto, batch: int, length: int) -> ValueInfoProto:
    made = ValueInfoProto()
    made.CopyFrom(info)
    for axis in _symbols(info):
        made.type.tensor_type.shape.dim[axis].dim_value = length if axis else batch
    return made
