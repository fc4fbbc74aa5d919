"""Symbolic shapes of all values: `annotate(view)` fills `Value.shape` and `Value.elements`.

`onnx.shape_inference` knows every operator but invents an unrelated symbol for what it cannot
compute. Shapes of the operators around attention are therefore computed here, on polynomials
(`dims.py`), and onnx answers for the rest.

A declared shape of what a node outputs may be out of date; one that contradicts the operator is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from itertools import chain

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
    helper,
    numpy_helper,
    shape_inference,
)

from onnxheadprune.errors import ModelError, heed
from onnxheadprune.model.bodies import is_constant
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Shape
from onnxheadprune.model.graph.elements import as_elements, fold, follows_few
from onnxheadprune.model.graph.misfits import Misfits
from onnxheadprune.model.graph.operator import (
    DEQUANTIZES,
    NORMALIZES,
    SUMS_PRODUCTS,
    WEIGHS,
    is_a,
    kind,
)
from onnxheadprune.model.graph.types import adopt_types
from onnxheadprune.model.graph.view import MAX_LITERAL_ELEMENTS, Contradiction, GraphView, Node, Scope, Value
from onnxheadprune.model.messages import store_tensors, without_nodes


def _adopt_shapes(node: Node) -> None:
    """Give the outputs of a standard operator what onnx infers from the node and its inputs alone.

    For graphs that are too large to be inferred as a whole (`onnx.shape_inference` copies a graph several times), and
    behind operators that onnx does not know. Here onnx is asked only where no function of ours tells a shape.
    """
    inputs = [value for value in node.inputs if value is not None]
    if node.bodies or not all(value.elem_type for value in inputs):
        return
    known = {str(dim): dim for value in inputs for dim in value.shape or ()}
    literals = {value.name: value.literal() for value in inputs}
    try:
        answer = shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, node.opset, ""),
            node.proto,
            {value.name: _type_of(value) for value in inputs},
            {name: numpy_helper.from_array(item) for name, item in literals.items() if item is not None},
            opset_imports=[helper.make_opsetid("", node.opset)],
        )
    except Exception:  # as for whole graphs: the values stay unknown, which is no less exact
        return
    for value in node.outputs:
        inferred = None if value is None else answer.get(value.name)
        if value is None or inferred is None or inferred.WhichOneof("value") != "tensor_type":
            continue
        value.elem_type = value.elem_type or inferred.tensor_type.elem_type
        if inferred.tensor_type.HasField("shape"):
            value.shape = _shape(value, inferred, known)


def _type_of(value: Value) -> TypeProto:
    shape = (
        None if value.shape is None else [dim if isinstance(dim, int) else str(dim) for dim in value.shape]
    )
    return helper.make_tensor_type_proto(value.elem_type, shape)


def _shape(value: Value, inferred: TypeProto, known: dict[str, Dim]) -> Shape:
    """The inferred shape, in which names of dimensions are the polynomials that they spell."""
    made: list[Dim] = []
    for axis, dim in enumerate(inferred.tensor_type.shape.dim):
        if dim.WhichOneof("value") == "dim_value":
            made.append(dim.dim_value)
        else:
            made.append(known.get(dim.dim_param) or dims.symbol(f"{value.name}.{axis}"))
    return tuple(made)


COMPUTES_NO_SHAPE = SUMS_PRODUCTS | WEIGHS | NORMALIZES | DEQUANTIZES | kind("Split")
"""Operators that never compute shapes, or whose numbers are followed already: folding would be a waste."""


MAX_WHOLE = 50_000
"""Nodes of graphs that onnx infers as a whole; that takes 15 kB and 15 microseconds each."""


def annotate(view: GraphView) -> GraphView:
    """Give every value of `view` its symbolic shape, element type and known elements.

    Raises:
        ModelError: if a node cannot take its lists of axes, or inputs of these ranks.
    """
    declared = {value: shape for scope in view.scopes for value, shape in _declarations(scope)}
    inferred = _inferred(view, declared) if len(view.nodes) <= MAX_WHOLE else view.model
    wrong = _annotate(view, inferred)
    while _ignore(view, declared):
        wrong = _annotate(view, _infer_with_onnx(view) if len(view.nodes) <= MAX_WHOLE else view.model)
    if wrong is not None:
        raise ModelError(wrong)
    return view


def _inferred(view: GraphView, declared: dict[Value, Shape]) -> ModelProto:
    """The shapes that onnx infers; declarations that these contradict are set aside."""
    try:
        return _infer_with_onnx(view, strict=bool(declared))
    except shape_inference.InferenceError:
        # Of a declaration that it cannot merge onnx says nothing otherwise, and keeps it.
        _adopt(view.main, _infer_with_onnx(view, lambda *_: True).graph)
        _ignore(view, declared)
        return _infer_with_onnx(view)


def _ignore(view: GraphView, declared: dict[Value, Shape]) -> bool:
    """Sets declarations aside that the annotated shapes contradict; whether there are any."""
    found = [
        Contradiction(value, shape, value.shape)
        for value, shape in declared.items()
        if value.shape is not None and _differ(shape, value.shape)
    ]
    for item in found:
        del declared[item.value]
    view.contradicted += found
    if found:
        _forget_shapes(view)
    return bool(found)


def _annotate(view: GraphView, inferred: ModelProto) -> str | None:
    """Annotate once; return why a node cannot be, None if all can."""
    misfits, wrong = Misfits(), None
    whole = inferred is not view.model
    foreign = any(node.domain for node in view.nodes)  # onnx stops at operators that it does not know
    _adopt(view.main, inferred.graph, () if whole else _ignored(view))
    for scope in view.scopes:
        for value in scope.values.values():
            if value.tensor is not None:
                literal = value.literal()
                value.elements = None if literal is None else as_elements(literal)
    for node in view.nodes:
        adopt_types(node)
        misfit = misfits.of(node)
        if misfit is not None:
            # A declaration that is out of date may be behind it, so others are looked at first.
            wrong = wrong or f"{node.label} is not valid: {misfit}"
            continue
        asked = not whole or (
            foreign and any(item is not None and item.shape is None for item in node.outputs)
        )
        if asked and not node.domain and node.operator.shape is None and not is_constant(node):
            _adopt_shapes(node)
        _annotate_node(node)
    return wrong


def _ignored(view: GraphView) -> set[tuple[str, str]]:
    """The declarations that are set aside, by the reference of their scope and their name."""
    return {(item.value.scope.ref, item.value.name) for item in view.contradicted}


def _annotate_node(node: Node) -> None:
    if is_constant(node):
        return
    if is_a(node, "If"):
        _annotate_if(node)
        return
    inputs = node.operator.inputs
    if inputs is not None:
        for value, shape in zip(node.inputs, inputs(node), strict=False):
            if value is not None and shape is not None:
                value.shape = shape
    function = node.operator.shape
    if function is not None:
        for value, shape in zip(node.outputs, function(node), strict=False):
            if value is not None and shape is not None:
                value.shape = shape
    if node.outputs[0] is None:
        return
    follow = node.operator.elements
    if follow is not None:
        found = follow(node)
        each = found if isinstance(found, list) else [found]
        for value, elements in zip(node.outputs, each, strict=False):
            if value is not None:
                value.elements = elements
    if node.out.elements is None and node not in COMPUTES_NO_SHAPE:
        folded = fold(node)
        node.out.elements = None if folded is None else as_elements(folded)
        node.out.folded = folded if node.out.elements is None else None


def _annotate_if(node: Node) -> None:
    """The outputs of the branch that a known condition takes, else what both branches agree on."""
    condition = node.literal(0)
    names: tuple[str, ...] = ("then_branch", "else_branch")
    if condition is not None and condition.size == 1:
        names = ("then_branch",) if bool(condition.reshape(-1)[0]) else ("else_branch",)
    bodies = [node.bodies[name] for name in names]
    for index, output in enumerate(node.outputs):
        results = [body.lookup(body.proto.output[index].name) for body in bodies]
        if output is None:
            continue
        types = {0 if result is None else result.elem_type for result in results}
        output.elem_type = output.elem_type or (types.pop() if len(types) == 1 else 0)
        if any(result is None or result.shape is None for result in results):
            continue
        shapes = [result.shape for result in results if result is not None and result.shape is not None]
        if len({len(shape) for shape in shapes}) != 1:
            continue
        output.shape = tuple(
            dim[0] if len(set(dim)) == 1 else dims.symbol(f"{output.name}.{axis}")
            for axis, dim in enumerate(zip(*shapes, strict=True))
        )
        first = results[0]
        if len(results) == 1 and first is not None:
            output.elements = first.elements


def _adopt(scope: Scope, graph: GraphProto, ignored: Container[tuple[str, str]] = ()) -> None:
    """Copy the shapes that onnx inferred for `graph` (same nodes as the scope's) onto the values."""
    for info in chain(graph.input, graph.value_info, graph.output):
        value = scope.values.get(info.name)
        if value is None or value.tensor is not None:
            continue
        value.elem_type = info.type.tensor_type.elem_type or value.elem_type
        shape = _declared_shape(info)
        if shape is not None and (scope.ref, info.name) not in ignored:
            value.shape = shape
    for node in scope.nodes:
        for attribute in graph.node[node.position].attribute if node.bodies else ():
            if attribute.name in node.bodies:
                _adopt(node.bodies[attribute.name], attribute.g, ignored)


def _infer_with_onnx(
    view: GraphView, ignored: Callable[[str, str], bool] | None = None, *, strict: bool = False
) -> ModelProto:
    """`onnx.shape_inference` on a copy whose weights are replaced by declared inputs.

    Args:
        ignored: which declarations to leave out, by the reference of their scope and their name; those that the view
            has set aside, if not given.
        strict: whether to raise where onnx cannot infer a node, or contradicts a declaration.
    """
    model, skeleton = view.model, without_nodes(view.model)
    graph = skeleton.graph
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    store_tensors(graph, model.graph.initializer, _is_weight)
    aside = _ignored(view)
    _strip(graph, ignored or (lambda *place: place in aside))
    try:
        return shape_inference.infer_shapes(skeleton, strict_mode=strict, data_prop=follows_few(view))
    except Exception as error:
        heed(error)
        if strict:
            raise shape_inference.InferenceError(str(error)) from error
        # onnx raises many types here; without it more of the graph stays unknown, no less exact.
        return skeleton


def _is_weight(tensor: TensorProto) -> bool:
    count = int(np.prod(tensor.dims, dtype=np.int64))
    return count > MAX_LITERAL_ELEMENTS or tensor.data_location == TensorProto.EXTERNAL


def _declarations(scope: Scope) -> Iterator[tuple[Value, Shape]]:
    for info in chain(scope.proto.value_info, scope.proto.output):
        value, shape = scope.values.get(info.name), _declared_shape(info)
        if value is not None and value.producer is not None and value.tensor is None and shape is not None:
            yield value, shape


def _differ(declared: Shape, found: Shape) -> bool:
    if len(declared) != len(found):
        return True
    pairs = zip(declared, found, strict=True)
    return any(isinstance(left, int) and isinstance(right, int) and left != right for left, right in pairs)


def _forget_shapes(view: GraphView) -> None:
    """Take back what was annotated to the outputs of nodes."""
    for value in view.values():
        if value.producer is not None and value.tensor is None:
            value.shape = value.elements = value.folded = None


def _strip(graph: GraphProto, ignored: Callable[[str, str], bool], ref: str = "main") -> None:
    """Remove ignored declarations and what exporters say of nodes, in a graph and its bodies, in place.

    Args:
        ignored: asked with the reference of a scope and the name of a value.
    """
    for info in chain(graph.value_info, graph.output):
        if _declared_shape(info) is not None and ignored(ref, info.name):
            info.type.tensor_type.ClearField("shape")
    for position, node in enumerate(graph.node):
        # onnx would copy stack traces four times.
        node.ClearField("doc_string")
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _strip(attribute.g, ignored, f"{ref}[{position}].{attribute.name}")
    for node in [node for node in graph.node if is_a(node, "RegexFullMatch")]:
        graph.node.remove(node)


def _declared_shape(info: ValueInfoProto) -> Shape | None:
    """The declared shape, with a symbol of its own for each size that has no name."""
    tensor = info.type.tensor_type
    if info.type.WhichOneof("value") != "tensor_type" or not tensor.HasField("shape"):
        return None
    shape: list[Dim] = []
    for axis, dim in enumerate(tensor.shape.dim):
        kind = dim.WhichOneof("value")
        if kind == "dim_value":
            shape.append(dim.dim_value)
        else:
            shape.append(
                dims.parsed_dim(dim.dim_param) if dim.dim_param else dims.symbol(f"{info.name}.{axis}")
            )
    return tuple(shape)
