"""Element-wise operators of one number per input give what ONNX Runtime computes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxheadprune.model.graph.elements import number_of
from onnxheadprune.model.graph.operator import ELEMENTWISE
from onnxheadprune.operators import view_of
from tests.liveness.one_node import Array, running

OPSET = 17
NUMBERS: dict[int, tuple[float, ...]] = {
    TensorProto.FLOAT: (-math.inf, -2.0, -0.5, 0.0, 0.25, 1.0, 3.0, 60.0, math.inf),
    TensorProto.INT64: (-7.0, -1.0, 0.0, 1.0, 2.0, 3.0, 7.0),
    TensorProto.BOOL: (0.0, 1.0),
}
NAMES = [name for name in sorted(ELEMENTWISE) if onnx.defs.has(name, max_inclusive_version=OPSET)]


def _types(name: str, kind: int) -> list[int]:
    """The types of an operator's inputs; none where it does not take numbers of this kind."""
    schema = onnx.defs.get_schema(name, OPSET)
    taken = {item.type_param_str: item.allowed_type_strs for item in schema.type_constraints}
    each = [taken.get(item.type_str, [item.type_str]) for item in schema.inputs]
    spelled = f"tensor({TensorProto.DataType.Name(kind).lower()})"
    kinds = [TensorProto.BOOL if types == ["tensor(bool)"] else kind for types in each]
    fit = all(spelled in types or types == ["tensor(bool)"] for types in each)
    return kinds if fit and kind in kinds else []


def _model(name: str, kinds: list[int]) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(f"x{place}", each, []) for place, each in enumerate(kinds)]
    attributes = {"Cast": {"to": TensorProto.FLOAT16}, "BitShift": {"direction": "LEFT"}}.get(name, {})
    node = helper.make_node(name, [info.name for info in inputs], ["y"], **attributes)
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", 0, None)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("name", NAMES)
def test_a_number_is_what_onnx_runtime_computes(name: str, kind: int) -> None:
    """Also where one of the numbers is not known."""
    kinds = _types(name, kind)
    model = _model(name, kinds)
    try:
        outputs = running(model)
    except Exception:  # no inputs, or no kernel
        return
    (viewed,) = view_of(model).nodes
    for numbers in itertools.product(*(NUMBERS[each] for each in kinds)):
        feed: dict[str, Array] = {
            f"x{place}": np.array(item, helper.tensor_dtype_to_np_dtype(each))
            for place, (item, each) in enumerate(zip(numbers, kinds, strict=True))
        }
        for unknown in (None, *range(len(numbers))):
            given = [None if place == unknown else item for place, item in enumerate(numbers)]
            found = number_of(viewed, given)
            if found is not None:
                want = outputs(feed)["y"].astype(np.float64)
                np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-6, err_msg=f"{given} of {numbers}")
