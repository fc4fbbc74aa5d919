"""Element types behind operators that onnx does not know: those of ONNX Runtime, without any value_info."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, ValueInfoProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

import onnxheadprune
from onnxheadprune.model.graph.elements import INTEGER_TYPES
from onnxheadprune.model.graph.types import adopt_types
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.operators import view_of
from tests.graphs.fused import decoder
from tests.graphs.toys import packed
from tests.model.operator_records import keys_with

OWN = [key for key in keys_with(lambda record: record.shape) if key[0]]
NO_SCHEMA = {
    ("com.microsoft", "SimplifiedLayerNormalization"): "registered in the standard domain",
    ("ai.onnx.preview", "FlexAttention"): "newer than every ONNX Runtime yet",
    ("com.microsoft", "LinearAttentionGate"): "newer than the oldest ONNX Runtime",
    ("com.microsoft", "MRotaryEmbedding"): "newer than the oldest ONNX Runtime",
}
"""Operators without a schema in ONNX Runtime, by the reason."""


def schema_of(key: tuple[str, str]) -> Any:
    known = [item for item in schemas() if (item.domain, item.name) == key]
    return max(known, key=lambda item: item.since_version, default=None)


@cache
def schemas() -> Any:
    return runtime.get_all_operator_schema()


def test_operators_with_a_shape_have_a_schema() -> None:
    assert {key for key in OWN if schema_of(key) is None} <= set(NO_SCHEMA)


@pytest.mark.each_choice
@pytest.mark.parametrize("key", [key for key in OWN if schema_of(key)], ids=lambda key: key[1])
@pytest.mark.parametrize("whole", [True, False], ids=["all inputs", "required inputs"])
def test_outputs_have_the_type_that_the_schema_specifies(key: tuple[str, str], whole: bool) -> None:
    schema = schema_of(key)
    allowed = {item.type_param_str: list(item.allowed_type_strs) for item in schema.type_constraints}
    types: dict[str, int] = {}
    for spelled, names in allowed.items():
        # Types that no other group of inputs has, so that none is right by accident.
        numbers = [TensorProto.DataType.Value(name[7:-1].upper()) for name in names]
        types[spelled] = next((item for item in numbers if item not in types.values()), numbers[0])
    optional = {item.name for item in schema.inputs if item.option.name != "Single"}
    given = [item for item in schema.inputs if whole or item.name not in optional]
    node = helper.make_node(
        key[1],
        [item.name if item in given else "" for item in schema.inputs],
        [item.name for item in schema.outputs],
        domain=key[0],
    )
    of = {item.name: types.get(item.typeStr, 0) or _number(item.typeStr) for item in given}
    inputs = [ValueInfoProto(name=name) for name in of]
    view = GraphView(helper.make_model(helper.make_graph([node], "one", inputs, [])))
    for name, elem_type in of.items():
        view.main.values[name].elem_type = elem_type
    (read,) = view.nodes
    adopt_types(read)
    for value, formal in zip(read.outputs, schema.outputs, strict=True):
        assert value is not None
        names = allowed.get(formal.typeStr, [formal.typeStr])
        same = {item.typeStr for item in given} & {formal.typeStr}
        if same or len(names) == 1:
            expected = types.get(formal.typeStr) or _number(formal.typeStr)
            assert value.elem_type == expected, formal.name
        else:
            assert value.elem_type in [_number(name) for name in names], formal.name


def _number(spelled: str) -> int:
    return int(TensorProto.DataType.Value(spelled.removeprefix("tensor(").removesuffix(")").upper()))


def _fused() -> ModelProto:
    return onnxheadprune.prune(
        onnx.load("sample_models/digits_vit.onnx"), fuse="contrib", validate=False
    ).model


@pytest.mark.parametrize(
    "make", [_fused, decoder, lambda: decoder(repeated=True), lambda: packed(decoder(), 0)]
)
def test_every_value_has_the_type_that_onnxruntime_gives_it(make: Callable[[], ModelProto]) -> None:
    model = make()
    assert any(node.domain for node in model.graph.node)
    del model.graph.value_info[:]
    found = {name: value.elem_type for name, value in view_of(model).main.values.items() if value.producer}
    declared = {info.name for info in model.graph.output}
    model.graph.output.extend(ValueInfoProto(name=name) for name in found if name not in declared)
    outputs = onnxruntime.InferenceSession(model.SerializeToString()).get_outputs()
    assert found == {item.name: _number(item.type) for item in outputs}


@pytest.mark.parametrize("kind", sorted(INTEGER_TYPES), ids=TensorProto.DataType.Name)
def test_sizes_that_are_known_have_the_type_of_their_value(kind: int) -> None:
    sizes = helper.make_node("Shape", ["x"], ["sizes"])
    graph = helper.make_graph(
        [sizes, helper.make_node("Cast", ["sizes"], ["cast"], to=kind)],
        "sizes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (3, 4))],
        [helper.make_tensor_value_info("cast", kind, (2,))],
    )
    literal = view_of(helper.make_model(graph)).main.values["cast"].literal()
    assert literal is not None and list(literal) == [3, 4]
    assert literal.dtype == helper.tensor_dtype_to_np_dtype(kind)


def test_a_range_in_int32_ends_at_a_size() -> None:
    """TensorFlow counts in int32; onnx wants one type for where a Range starts and where it ends."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        counted (float[3, 4] x) => (int32[n] y) <int32 zero = {0}, int32 one = {1}, int64 at = {0}> {
            sizes = Shape(x)
            cast = Cast<to = 6>(sizes)
            size = Gather<axis = 0>(cast, at)
            y = Range(zero, size, one)
        }""")
    assert view_of(model).main.values["y"].shape == (3,)
