"""An operator on any number of inputs that has a single one is an Identity where it outputs that one."""

from __future__ import annotations

import numpy as np
import onnx.defs
import pytest
from onnx import TensorProto, helper
from onnx.defs import OpSchema
from onnx.reference import ReferenceEvaluator

from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.operators import view_of

LATEST = {schema.name: schema for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain}
LATEST = {name: onnx.defs.get_schema(name) for name in LATEST}
PLAIN = (OpSchema.AttrType.INT, OpSchema.AttrType.FLOAT)
VARIADIC = sorted(
    name
    for name, schema in LATEST.items()
    if schema.inputs
    and schema.inputs[-1].option == OpSchema.FormalParameterOption.Variadic
    and len(schema.inputs) == len(schema.outputs) == 1
    and "tensor" in schema.outputs[0].type_str.lower() + str(schema.type_constraints[0].allowed_type_strs)
    and not any("seq(" in item for item in schema.type_constraints[-1].allowed_type_strs)
    and all(item.type in PLAIN for item in schema.attributes.values() if item.required)
)


def test_the_standard_has_such_operators() -> None:
    assert {"Concat", "Max", "Mean", "Min", "Sum"} <= set(VARIADIC)


@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("op", VARIADIC)
def test_it_is_an_identity_where_it_outputs_its_input(op: str, inputs: int) -> None:
    required = {name: 0 for name, item in LATEST[op].attributes.items() if item.required}
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node(op, ["x"] * inputs, ["y"], op, **required)
    model = helper.make_model(helper.make_graph([node], "g", [info], [out]))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    (made,) = ReferenceEvaluator(model).run(None, {"x": x})
    view = view_of(model)
    is_same = inputs == 1 and np.array_equal(made, x)
    assert is_a(view.nodes[0], "Identity") == is_same
    assert view.nodes[0].label == f"{op} ({op})"
