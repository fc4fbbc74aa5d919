"""Folding of small constant subgraphs that exporters leave behind (`Mod(2, 3)` as a slice bound)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TypeProto, ValueInfoProto, helper

from onnxheadprune.graph.view import Node, Value

MAX_FOLDED = 64


def fold(node: Node) -> npt.NDArray[np.generic] | None:
    """The value of a node's only output, computed by onnx's reference implementation.

    None unless all inputs are small literals and the operator is a standard, deterministic one.
    """
    if node.domain or node.bodies or len(node.outputs) != 1:
        return None
    literals: dict[str, npt.NDArray[np.generic]] = {}
    for value in node.inputs:
        literal = None if value is None else value.literal()
        if value is None or literal is None or literal.size > MAX_FOLDED:
            return None
        literals[value.name] = literal
    return _run(node, literals)


def _run(node: Node, literals: dict[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.generic] | None:
    from onnx.reference import ReferenceEvaluator

    inputs = [_declared(node.inputs, name, literal) for name, literal in literals.items()]
    output = ValueInfoProto(name=node.out.name, type=TypeProto())
    graph = helper.make_graph([node.proto], "fold", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", node.opset)])
    try:
        results: Any = ReferenceEvaluator(model).run(None, dict(literals))
    except Exception:  # an operator the reference lacks: the value stays unknown, which is always safe
        return None
    array = np.asarray(results[0])
    return array if array.size <= MAX_FOLDED else None


def _declared(
    values: tuple[Value | None, ...], name: str, literal: npt.NDArray[np.generic]
) -> ValueInfoProto:
    elem_type = next(value.elem_type for value in values if value is not None and value.name == name)
    elem_type = elem_type or helper.np_dtype_to_tensor_dtype(literal.dtype)
    return helper.make_tensor_value_info(name, elem_type, literal.shape)
