"""Operators, one file for each close family: its shape, its numbers, its law, its cost.

Importing this package fills the tables that others ask: `model.graph.tables`, `liveness.registry` and
`liveness.fused`. Views are annotated by `annotated` here, so whoever analyses a model has filled them.
"""

from onnxheadprune.model.graph.infer import annotate
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.operators import (
    arithmetic,
    attention,
    attention_cost,
    attention_group_query,
    attention_linear,
    attention_multi_head,
    attention_packed,
    attention_parts,
    concat,
    control,
    convolution,
    einsum,
    elementwise,
    elementwise_gradients,
    embedding,
    expand,
    gather,
    generation,
    grid_sample,
    matmul,
    matmul_gradients,
    matmul_nbits,
    mixture,
    normalization,
    normalization_gradients,
    pad,
    pooling,
    quantization,
    ranges,
    recurrent,
    reduction,
    reshape,
    resize,
    rotary,
    scan,
    scatter,
    sequences,
    shape_of,
    slicing,
    softmax,
    split,
    transpose,
    whole_numbers,
)


def annotated(view: GraphView) -> GraphView:
    """Gives every value of `view` its symbolic shape, element type and known elements."""
    return annotate(view)
