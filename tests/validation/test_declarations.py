"""What a pruned model declares is compared with what the planned one does: every field of every input and output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import ModelProto, TypeProto, ValueInfoProto, helper, parser

from onnxheadprune import HeadPruneError, PrunePlan, Validation, apply_plan, plan_pruning, validate
from tests import attacks
from tests.attacks import with_body
from tests.graphs import toys
from tests.validation.test_graph import likeness

NO_PART = {"doc_string", "metadata_props"}
"""Fields that declare nothing."""
DEEPEST = 6
"""Types nest without end: sequences of optional sequences."""


def of_many_types() -> ModelProto:
    """The result of attention also as a sequence, as what an optional holds, and beside a tensor of no known rank."""
    model = toys.attention()
    more = parser.parse_graph(
        "more (float[batch, sequence, 12] y) => (seq(float[batch, sequence, 12]) s,"
        " optional(float[batch, sequence, 12]) o, float z)"
        "{ s = SequenceConstruct(y, y)  o = Optional(y)  z = Relu(y) }"
    )
    model.graph.node.extend(more.node)
    model.graph.output.extend(more.output)
    return model


def forgeries(message: Message, depth: int = 0) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """All ways to change one field of a message, by its descriptor; each as what it does to a copy of the message."""
    for item in message.DESCRIPTOR.fields:
        name = item.name
        if name in NO_PART or depth > DEEPEST:
            continue
        value = getattr(message, name)
        if item.is_repeated:
            yield from _of_a_list(name, value, depth)
        elif item.type == FieldDescriptor.TYPE_MESSAGE and message.HasField(name):
            yield f"{name} cleared", lambda copy, name=name: copy.ClearField(name)
            for what, change in forgeries(value, depth + 1):
                yield f"{name}.{what}", lambda copy, name=name, change=change: change(getattr(copy, name))
        elif item.type == FieldDescriptor.TYPE_MESSAGE:
            yield f"{name} in its place", lambda copy, name=name: getattr(copy, name).SetInParent()
        elif item.type == FieldDescriptor.TYPE_STRING:
            for other in {"other", "batch", "sequence"} - {value}:
                yield f"{name}={other}", lambda copy, name=name, other=other: setattr(copy, name, other)
        else:
            for other in {1, 7, 11} - {value}:
                yield f"{name}={other}", lambda copy, name=name, other=other: setattr(copy, name, other)
        if item.has_presence and item.type != FieldDescriptor.TYPE_MESSAGE and message.HasField(name):
            yield f"{name} cleared", lambda copy, name=name: copy.ClearField(name)


def _of_a_list(name: str, value: Any, depth: int) -> Iterator[tuple[str, Callable[[Any], None]]]:
    yield f"{name} longer", lambda copy: getattr(copy, name).add()
    for index, element in enumerate(value):
        yield f"{name}[{index}] gone", lambda copy, index=index: getattr(copy, name).pop(index)
        for what, change in forgeries(element, depth + 1):
            yield (
                f"{name}[{index}].{what}",
                lambda copy, index=index, change=change: change(getattr(copy, name)[index]),
            )


def seen(model: ModelProto, smaller: ModelProto, plan: PrunePlan | None = None) -> str:
    """Why a pruned model is not taken for the planned one; empty if it is."""
    try:
        found = likeness(model, plan or plan_pruning(model, heads="0:1"), smaller)
    except HeadPruneError as error:
        return str(error)
    return "" if found.identical else found.differences[0]


Infos = Callable[[ModelProto], Sequence[ValueInfoProto]]
"""Some declarations of a model."""


def require_all_seen(model: ModelProto, infos: Infos) -> None:
    """Change every field of every declaration, one at a time."""
    plan = plan_pruning(model, heads="0:1")
    smaller = apply_plan(plan, model)
    assert seen(model, smaller, plan) == ""
    unseen = []
    for index, info in enumerate(infos(smaller)):
        for what, change in forgeries(info):
            forged = ModelProto.FromString(smaller.SerializeToString())
            change(infos(forged)[index])
            named = "name" in what.split("=")[0] and infos is of_bodies
            if forged != smaller and not named and not seen(model, forged, plan):
                unseen.append(f"{info.name}: {what}")
    assert not unseen


@pytest.mark.parametrize("source", [attacks.text_model, of_many_types])
@pytest.mark.parametrize("role", ["input", "output"])
def test_every_field_of_every_input_and_output_is_compared(
    source: Callable[[], ModelProto], role: str
) -> None:
    require_all_seen(source(), lambda model: getattr(model.graph, role))


def verdict(change: Callable[[ModelProto], None], source: Callable[[], ModelProto]) -> Validation:
    model = source()
    smaller = attacks.pruned(model)
    change(smaller)
    return validate(model, smaller, provider="cpu")


def open_sizes(model: ModelProto) -> list[Any]:
    infos = (*model.graph.input, *model.graph.output)
    return [item for info in infos for item in info.type.tensor_type.shape.dim if item.dim_param]


def test_two_inputs_of_one_symbol_rest_on_numbers() -> None:
    def change(model: ModelProto) -> None:
        for item in open_sizes(model):
            item.dim_param = "n"

    found = verdict(change, attacks.text_model)
    assert found.exact == "tried"
    assert found.reason.startswith("the declarations are not the planned ones; equal on ")


def all_replaceable(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


def test_a_tensor_that_callers_may_replace_is_a_difference() -> None:
    assert verdict(all_replaceable, attacks.text_model).exact == "tried"


def old_version() -> ModelProto:
    """As versions of the format before 4 have it: each stored tensor is an input, and none may be replaced."""
    model = attacks.text_model()
    all_replaceable(model)
    model.ir_version = 3
    return model


def test_a_version_that_makes_all_weights_replaceable_is_a_difference() -> None:
    assert verdict(lambda model: None, old_version).exact == "yes"
    found = verdict(lambda model: setattr(model, "ir_version", 8), old_version)
    assert found.likeness is not None and "callers can replace" in found.likeness.differences[0]


def untrue(tensor: TypeProto.Tensor) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """Ways to declare another shape; as `forgeries`. A wrong type is no valid model."""
    yield "rank", lambda copy: copy.shape.dim.add(dim_value=1)
    for axis in range(len(tensor.shape.dim)):
        yield f"axis {axis}", lambda copy, axis=axis: setattr(copy.shape.dim[axis], "dim_value", 99)


def test_a_declaration_inside_that_the_graph_does_not_show_is_a_difference() -> None:
    """ONNX Runtime's optimizer believes it."""
    model = attacks.text_model()
    plan = plan_pruning(model, heads="0:1")
    inferred = onnx.shape_inference.infer_shapes(apply_plan(plan, model))
    assert len(inferred.graph.value_info) > 10
    unseen = []
    for index, info in enumerate(inferred.graph.value_info):
        for what, change in untrue(info.type.tensor_type):
            forged = ModelProto.FromString(inferred.SerializeToString())
            change(forged.graph.value_info[index].type.tensor_type)
            if f"{info.name} is declared as" not in seen(model, forged, plan):
                unseen.append(f"{info.name}: {what}")
    assert not unseen


def declaring_body() -> ModelProto:
    """The branches of an If declare a value in between, each another one."""
    model = with_body(toys.attention())
    for attribute in attacks.node(model, "If").attribute:
        (add,) = attribute.g.node
        add.output[0] = "between"
        attribute.g.node.append(helper.make_node("Relu", ["between"], ["out"]))
        attribute.g.value_info.append(helper.make_tensor_value_info("between", 1, ["b", None, toys.HIDDEN]))
        attribute.g.output[0].type.tensor_type.shape.dim.add(dim_param="b")
        attribute.g.output[0].type.tensor_type.shape.dim.add()
        attribute.g.output[0].type.tensor_type.shape.dim.add(dim_value=toys.HIDDEN)
    return model


def looping_body() -> ModelProto:
    """A loop whose body declares what it takes, what it makes and a value in between."""
    model = toys.attention()
    for item in model.graph.node:
        item.output[0] = "inner" if item.output[0] == "y" else item.output[0]
    more = parser.parse_graph(
        """more (float[batch, sequence, 12] inner) => (float[batch, sequence, 12] y) {
            times = Constant<value_int = 2>() yes = Constant<value = bool {1}>()
            y = Loop(times, yes, inner)<body = turn (int64 i, bool go, float[b, s, 12] x)
                => (bool on, float[b, s, 12] z) <float[b, s, 12] between> {
                    on = Identity(go) between = Relu(x) z = Add(between, x) }>
        }"""
    )
    model.graph.node.extend(more.node)
    return model


def of_bodies(model: ModelProto) -> list[ValueInfoProto]:
    graphs = [
        attribute.g for item in model.graph.node for attribute in item.attribute if attribute.HasField("g")
    ]
    return [info for graph in graphs for info in (*graph.input, *graph.output, *graph.value_info)]


@pytest.mark.parametrize("source", [declaring_body, looping_body])
def test_what_bodies_declare_is_compared(source: Callable[[], ModelProto]) -> None:
    require_all_seen(source(), of_bodies)
