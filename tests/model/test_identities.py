"""An operator on any number of inputs that has a single one is an Identity where it outputs that one."""

from __future__ import annotations

import onnx.defs
from onnx.defs import OpSchema

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
