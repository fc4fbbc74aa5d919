"""Elements, bytes and operations of the stored tensors that a site's units own."""

from __future__ import annotations

import math

import numpy as np
import onnx

from onnxheadprune.liveness.swept import Sweep


def weights_of(walk: Sweep) -> tuple[int, int, int]:
    """`(elements, bytes, flops per token)` that a mask sweep removes from stored tensors."""
    elements = size_in_bytes = flops = 0
    for value in walk.reached:
        if value.tensor is None or value.shape is None:
            continue
        needs = [walk.edge(use) for use in value.consumers if (use.node.index, use.input_index) in walk.edges]
        # Without a consumer it is what a branch of an `If` hands out.
        live = (needs[0] if needs else walk.kept[value]).as_mask()
        total = math.prod(dim for dim in value.shape if isinstance(dim, int))
        gone = total - round(total * float(np.mean(live.array != 0)))
        elements += gone
        size_in_bytes += gone * _element_bits(value.elem_type) // 8
        flops += 2 * gone if len(value.shape) > 1 else 0
    return elements, size_in_bytes, flops


def _element_bits(elem_type: int) -> int:
    """Bits per element of an ONNX tensor type."""
    name = onnx.TensorProto.DataType.Name(elem_type)
    if name in ("INT4", "UINT4", "FLOAT4E2M1"):
        return 4
    if name in ("INT2", "UINT2"):
        return 2
    return int(onnx.helper.tensor_dtype_to_np_dtype(elem_type).itemsize) * 8 if name != "UNDEFINED" else 0
