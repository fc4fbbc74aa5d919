"""Axes and lists of nodes that do not fit the ranks of their inputs, found before anything counts with them."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import AttributeProto, NodeProto, TypeProto, helper, numpy_helper, shape_inference
from onnx.defs import OpSchema

from onnxheadprune.errors import heed
from onnxheadprune.model.bodies import is_constant
from onnxheadprune.model.graph.elements import INTEGER_TYPES
from onnxheadprune.model.graph.operator import is_a, schema_of
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.storage.checks import MAX_RANK
from onnxheadprune.model.tensors import Array

MAX_LISTED = 2 * MAX_RANK
"""Entries of a list about axes: pads have two for each."""
NUMBERS = (AttributeProto.INT, AttributeProto.INTS)
PLACES = frozenset(("tensor(int64)", "tensor(int32)"))
"""The types of lists: an input that takes others, too, is data (a table, zero points)."""
SHORT = tuple((size,) for size in range(9))
CONTENT = frozenset(
    (
        *("value_ints", "pool_int64s", "ngram_counts", "ngram_indexes"),
        *("indices", "batch_indices", "write_indices", "position_ids", "sequence_lens", "nonpad_kv_seqlen"),
        *("labels", "target", "I", "B"),
    )
)
"""Attributes and inputs with integers that are data."""


class Misfits:
    """Checks each form of a node once: layers repeat."""

    def __init__(self) -> None:
        self._known: dict[object, str | None] = {}

    def of(self, node: Node) -> str | None:
        """Return why a standard operator cannot take its lists, axes and ranks of inputs; None if nothing is wrong."""
        if node.domain or node.bodies or is_constant(node) or is_a(node, "RegexFullMatch"):
            return None
        listed = {
            index: item for index in range(len(node.inputs)) if (item := _listed(node, index)) is not None
        }
        about_axes = listed or any(item.type in NUMBERS for item in node.proto.attribute)
        if not about_axes or not all(value.elem_type for value in node.sources):
            return None
        schema = schema_of(node.op_type, node.opset)
        if schema is None or _takes_computed_for_none(node, listed):
            return None
        key = (
            *(node.op_type, node.opset, len(node.outputs)),
            *(None if value is None else (value.elem_type, value.rank) for value in node.inputs),
            *(item.SerializeToString(deterministic=True) for item in node.proto.attribute),
            *((index, item.shape, item.tobytes()) for index, item in listed.items()),
        )
        if key not in self._known:
            self._known[key] = _of_lists(node, schema, listed) or _of_onnx(node, schema, listed)
        return self._known[key]


def _takes_computed_for_none(node: Node, listed: Mapping[int, Array]) -> bool:
    """Return whether onnx counts the sizes of an operator, which are computed, as no sizes."""
    return is_a(node, "Resize") and node.input(3) is not None and 3 not in listed


def _listed(node: Node, index: int) -> Array | None:
    """The known numbers of an input that may be a list, or one number."""
    value = node.inputs[index]
    if value is None or value.rank is None or value.rank > 1:
        return None
    few = value.holds_tensor and value.shape in SHORT  # that scales are empty says that there are sizes
    is_list = few or value.elem_type in INTEGER_TYPES or index in node.roles.places
    return value.literal() if is_list else None


def takes_list(schema: OpSchema, index: int) -> bool:
    """Return whether an input of an operator holds integers alone."""
    # Its own `types` cannot be read with onnx 1.20.
    kind = schema.inputs[index].type_str
    some = (item.allowed_type_strs for item in schema.type_constraints if item.type_param_str == kind)
    return PLACES.issuperset(next(some, [kind]))


def _of_lists(node: Node, schema: OpSchema, listed: Mapping[int, Array]) -> str | None:
    """Check what onnx's shape inference does not: lengths of axes, and that a permutation names each axis."""
    lists = {item.name: list(item.ints) for item in node.proto.attribute if item.type == AttributeProto.INTS}
    for index, item in listed.items():
        if index < len(schema.inputs) and takes_list(schema, index):
            lists.setdefault(schema.inputs[index].name, [int(number) for number in item.reshape(-1)])
    most = max(MAX_LISTED, len(node.inputs), len(node.outputs))
    for name, numbers in lists.items():
        if name not in CONTENT and len(numbers) > most:
            return f"{name} has {len(numbers):,} entries, more than tensors have axes"
    value, perm = node.input(0), lists.get("perm")
    if value is None or value.rank is None or perm is None or sorted(perm) == list(range(value.rank)):
        return None
    return f"perm {perm} does not name {value.rank} axes, each once"


def _of_onnx(node: Node, schema: OpSchema, listed: Mapping[int, Array]) -> str | None:
    """Return the error of onnx's shape inference, given only the types, ranks and short constants of the inputs."""
    names = {index: f"i{index}" for index, value in enumerate(node.inputs) if value is not None}
    proto = NodeProto()
    proto.CopyFrom(node.proto)
    del proto.input[:]
    proto.input.extend(names.get(index, "") for index in range(len(node.inputs)))
    types = {names[index]: _type_of(value) for index, value in enumerate(node.inputs) if value is not None}
    for index, item in listed.items():
        for dim, size in zip(types[names[index]].tensor_type.shape.dim, item.shape, strict=True):
            dim.dim_value = size
    try:
        shape_inference.infer_node_outputs(
            schema,
            proto,
            types,
            {names[index]: numpy_helper.from_array(item) for index, item in listed.items()},
            opset_imports=[helper.make_opsetid("", node.opset)],
        )
    except shape_inference.InferenceError as error:
        return str(error).partition("] ")[2].strip().splitlines()[0]
    except Exception as error:  # other errors are of onnx itself
        heed(error)
    return None


def _type_of(value: Value) -> TypeProto:
    return helper.make_tensor_type_proto(value.elem_type, None if value.rank is None else [None] * value.rank)
