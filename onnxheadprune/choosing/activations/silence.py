"""The contexts of a site, and what they are when some of its heads are silent."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from onnx import TensorProto

from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.graph.facts import QUANTIZERS
from onnxheadprune.model.graph.view import Value
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.runtime import Array


def context_of(projection: Projection) -> Value:
    """The context that a projection sums over, before it is quantized."""
    value, _ = projection.context
    while value.elem_type not in FLOATS and value.producer is not None:
        if value.producer not in QUANTIZERS or value.producer.inputs[0] is None:
            break
        value = value.producer.inputs[0]
    if value.elem_type not in (*FLOATS, TensorProto.UNDEFINED):
        raise RefusedError(
            f"the context of {projection.node.label} is never a float, so its heads cannot be scored on data"
        )
    return value


def silenced(site: Site, values: Mapping[str, Array], heads: Collection[int]) -> dict[str, Array]:
    """The contexts of a site, by name, with zeros where some of its heads are; none where a router leaves units out."""
    found: dict[str, Array] = {}
    for projection in () if site.ROUTED else site.projections:
        name = context_of(projection).name
        value = values[name]
        mask = projection.spread(projection.live_without(heads), value.ndim)
        found[name] = value * mask.astype(value.dtype)
    return found
