"""A view of a model with the shapes of one feed: what counting operations needs, without a copy of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxheadprune.attention.sites.find import view_of
from onnxheadprune.model.graph.restated import restated
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.runtime.feeds.fill import Array

FEW = 64
"""Inputs of up to this many whole numbers or flags (lengths, `use_cache_branch`) become constants."""


def concrete_view(model: ModelProto, feed: Mapping[str, Array]) -> GraphView:
    """The annotated view of a model that takes exactly this feed.

    Args:
        model: as `prepared` by `model_io`; not changed, and its large weights are not copied.
        feed: an array per graph input.
    """
    return view_of(restated(model, _inputs(model, feed)))


def _inputs(model: ModelProto, feed: Mapping[str, Array]) -> Iterator[ValueInfoProto | TensorProto]:
    stored = {tensor.name for tensor in model.graph.initializer}
    for info in model.graph.input:
        array = feed.get(info.name)
        if info.name in stored or array is None:
            yield info
        elif array.dtype.kind in "biu" and array.ndim < 2 and array.size <= FEW:
            yield numpy_helper.from_array(array, info.name)
        else:
            yield helper.make_tensor_value_info(info.name, info.type.tensor_type.elem_type, array.shape)
