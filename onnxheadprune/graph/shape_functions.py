"""Shape functions, on symbolic dimensions, of the operators that surround attention.

Each takes a node and returns the shapes of its outputs; None where it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from onnxheadprune.graph import dims
from onnxheadprune.graph.dims import Dim, Shape, Symbolic
from onnxheadprune.graph.elements import shape_range
from onnxheadprune.graph.view import Node

Shapes: TypeAlias = Sequence[Shape | None]


def _simplicity(dim: Dim) -> tuple[bool, bool, int, str]:
    name = str(dim)
    return (isinstance(dim, Symbolic), "unk__" in name or "." in name, len(name), name)


def broadcast_dim(left: Dim, right: Dim) -> Dim:
    """The broadcast of two dimensions.

    Two different symbols cannot be told apart from a broadcast of 1 at run time; the one that the
    model itself names is preferred to one that inference made up, then the shorter expression.
    """
    if left == 1 or left == right:
        return right
    if right == 1 or isinstance(left, int):
        return left
    if isinstance(right, int):
        return right
    return min(left, right, key=_simplicity)


def broadcast(shapes: Sequence[Shape | None]) -> Shape | None:
    """Numpy's broadcast of all `shapes`."""
    result: Shape = ()
    for shape in shapes:
        if shape is None:
            return None
        rank = max(len(result), len(shape))
        left = (1,) * (rank - len(result)) + result
        right = (1,) * (rank - len(shape)) + shape
        result = tuple(broadcast_dim(a, b) for a, b in zip(left, right, strict=True))
    return result


def _elementwise(node: Node) -> Shapes:
    return [broadcast([None if value is None else value.shape for value in node.inputs])]


def _same(node: Node) -> Shapes:
    return [node.shape(0)]


def _agree(node: Node, left_axis: int, right_axis: int) -> None:
    """The contracted dimensions of two operands are equal: a known one tells the other."""
    left, right = node.inputs[0], node.inputs[1]
    if left is None or right is None or not left.shape or not right.shape:
        return
    for known, other, axis, mine in (
        (left, right, right_axis, left_axis),
        (right, left, left_axis, right_axis),
    ):
        assert known.shape is not None and other.shape is not None
        dim = known.shape[mine]
        if isinstance(dim, int) and isinstance(other.shape[axis], Symbolic):
            at = axis % len(other.shape)
            other.shape = (*other.shape[:at], dim, *other.shape[at + 1 :])


def _matmul(node: Node) -> Shapes:
    if node.shape(0) and node.shape(1):
        _agree(node, -1, -1 if len(node.shape(1) or ()) == 1 else -2)
    left, right = node.shape(0), node.shape(1)
    if left is None or right is None or not left or not right:
        return [None]
    rows = left[-2:-1] if len(left) > 1 else ()
    columns = right[-1:] if len(right) > 1 else ()
    batch = broadcast([left[:-2], right[:-2]])
    return [None if batch is None else (*batch, *rows, *columns)]


def _gemm(node: Node) -> Shapes:
    if len(node.shape(0) or ()) == len(node.shape(1) or ()) == 2:
        _agree(node, 0 if node.attribute("transA", 0) else 1, 1 if node.attribute("transB", 0) else 0)
    left, right = node.shape(0), node.shape(1)
    if left is None or right is None or len(left) != 2 or len(right) != 2:
        return [None]
    rows = left[1] if node.attribute("transA", 0) else left[0]
    return [(rows, right[0] if node.attribute("transB", 0) else right[1])]


def _reshape(node: Node) -> Shapes:
    data, target = node.shape(0), node.input(1)
    if target is None or target.elements is None or target.elements.ndim != 1:
        return [None]
    result: list[Dim | None] = []
    unknown: int | None = None
    for axis, item in enumerate(target.elements):
        if item == 0 and not node.attribute("allowzero", 0):
            result.append(data[axis] if data is not None and axis < len(data) else None)
        else:
            result.append(None if item == -1 else item)
            unknown = axis if item == -1 else unknown
    others = [dim for axis, dim in enumerate(result) if axis != unknown]
    if unknown is not None and data is not None and None not in others:
        result[unknown] = dims.quotient(data, [dim for dim in others if dim is not None])
    elif unknown is None and data is not None and result.count(None) == 1:
        missing = result.index(None)
        result[missing] = dims.quotient(data, [dim for dim in result if dim is not None])
    return [tuple(_named(dim, node, axis) for axis, dim in enumerate(result))]


def _named(dim: Dim | None, node: Node, axis: int) -> Dim:
    return dims.symbol(f"{node.out.name}.{axis}") if dim is None else dim


def _transpose(node: Node) -> Shapes:
    shape = node.shape(0)
    if shape is None:
        return [None]
    order = node.attribute("perm", list(reversed(range(len(shape)))))
    return [tuple(shape[axis] for axis in order)]


def _unsqueeze(node: Node) -> Shapes:
    shape, axes = node.shape(0), node.int_list("axes", 1)
    if shape is None or axes is None:
        return [None]
    rank = len(shape) + len(axes)
    inserted = {axis % rank for axis in axes}
    rest = iter(shape)
    return [tuple(1 if axis in inserted else next(rest) for axis in range(rank))]


def _squeeze(node: Node) -> Shapes:
    shape, axes = node.shape(0), node.int_list("axes", 1)
    if shape is None or axes is None:
        return [None]
    dropped = {axis % len(shape) for axis in axes}
    return [tuple(dim for axis, dim in enumerate(shape) if axis not in dropped)]


def _expand(node: Node) -> Shapes:
    shape, target = node.shape(0), node.input(1)
    if target is None or target.elements is None or target.elements.ndim != 1:
        return [None]
    wanted = tuple(_named(item, node, axis) for axis, item in enumerate(target.elements))
    return [broadcast([shape, wanted])]


def _constant_of_shape(node: Node) -> Shapes:
    target = node.input(0)
    if target is None or target.elements is None or target.elements.ndim != 1:
        return [None]
    return [tuple(_named(item, node, axis) for axis, item in enumerate(target.elements))]


def _concat(node: Node) -> Shapes:
    shapes = [value.shape for value in node.inputs if value is not None]
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes) or not known or len({len(shape) for shape in known}) != 1:
        return [None]
    axis = node.attribute("axis", 0) % len(known[0])
    total: Dim = 0
    for shape in known:
        total = dims.add(total, shape[axis])
    rest = [min((shape[i] for shape in known), key=_simplicity) for i in range(len(known[0]))]
    rest[axis] = total
    return [tuple(rest)]


def _split(node: Node) -> Shapes:
    shape = node.shape(0)
    sizes = node.int_list("split", 1)
    if shape is None or not shape:
        return [None] * len(node.outputs)
    axis = node.attribute("axis", 0) % len(shape)
    if sizes is None:
        count, whole = len(node.outputs), shape[axis]
        if not isinstance(whole, int):
            return [None] * count
        chunk = -(-whole // count)
        sizes = [min(chunk, whole - chunk * index) for index in range(count)]
    return [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]


def _slice(node: Node) -> Shapes:
    shape = node.shape(0)
    starts, ends = node.int_list("starts", 1), node.int_list("ends", 2)
    if shape is None:
        return [None]
    axes = node.int_list("axes", 3)
    if axes is None and node.input(3) is None:
        axes = list(range(len(starts or ends or ())))
    steps = node.literal(4)
    if axes is None:
        return [None]
    result = list(shape)
    for position, axis in enumerate(axes):
        step = 1 if node.input(4) is None else (None if steps is None else int(steps.reshape(-1)[position]))
        start = None if starts is None else starts[position]
        end = None if ends is None else ends[position]
        result[axis % len(shape)] = _sliced(
            node, shape[axis % len(shape)], axis % len(shape), start, end, step
        )
    return [tuple(result)]


def _sliced(node: Node, dim: Dim, axis: int, start: int | None, end: int | None, step: int | None) -> Dim:
    if isinstance(dim, int) and None not in (start, end, step):
        stop = None if step is not None and step < 0 and end is not None and end < -dim else end
        return len(range(dim)[start:stop:step])
    if start is not None and end is not None and step == 1:
        if start == 0 and end >= 2**31 - 1:
            return dim
        if end >= 2**31 - 1:
            return dims.subtract(dim, start) if start >= 0 else -start
        if start >= 0 and end < 0:
            return dims.subtract(dims.add(dim, end), start)
    return dims.symbol(f"{node.out.name}.{axis}")


def _gather(node: Node) -> Shapes:
    data, indices = node.shape(0), node.shape(1)
    if data is None or indices is None or not data:
        return [None]
    axis = node.attribute("axis", 0) % len(data)
    return [(*data[:axis], *indices, *data[axis + 1 :])]


def _reduce(node: Node) -> Shapes:
    shape = node.shape(0)
    if shape is None:
        return [None]
    axes = node.int_list("axes", 1)
    if axes is None:
        if node.input(1) is not None or node.attribute("noop_with_empty_axes", 0):
            return [None]
        axes = list(range(len(shape)))
    reduced = {axis % len(shape) for axis in axes}
    if node.attribute("keepdims", 1):
        return [tuple(1 if axis in reduced else dim for axis, dim in enumerate(shape))]
    return [tuple(dim for axis, dim in enumerate(shape) if axis not in reduced)]


def _flatten(node: Node) -> Shapes:
    shape = node.shape(0)
    if shape is None:
        return [None]
    axis = node.attribute("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return [(dims.product(shape[:axis]), dims.product(shape[axis:]))]


def _tile(node: Node) -> Shapes:
    shape, repeats = node.shape(0), node.input(1)
    if shape is None or repeats is None or repeats.elements is None or repeats.elements.size != len(shape):
        return [None]
    factors = repeats.elements.reshape(-1)
    return [
        tuple(
            _named(None if factor is None else dims.multiply(dim, factor), node, axis)
            for axis, (dim, factor) in enumerate(zip(shape, factors, strict=True))
        )
    ]


def _pad(node: Node) -> Shapes:
    shape, pads = node.shape(0), node.input(1)
    if shape is None or pads is None or pads.elements is None or node.input(3) is not None:
        return [None]
    amounts = pads.elements.reshape(-1)
    if amounts.size != 2 * len(shape):
        return [None]
    padded = []
    for axis, dim in enumerate(shape):
        before, after = amounts[axis], amounts[axis + len(shape)]
        known = before is not None and after is not None
        padded.append(dims.add(dim, dims.add(before, after)) if known else _named(None, node, axis))
    return [tuple(padded)]


def _gather_elements(node: Node) -> Shapes:
    return [node.shape(1)]


def _conv(node: Node) -> Shapes:
    data, weight = node.shape(0), node.shape(1)
    if data is None or weight is None:
        return [None]
    count = len(data) - 2
    ones, zeros = [1] * count, [0] * count
    strides, dilations = node.attribute("strides", ones), node.attribute("dilations", ones)
    pads = node.attribute("pads", zeros + zeros)
    same = str(node.attribute("auto_pad", "NOTSET")).startswith("SAME")
    spatial: list[Dim] = []
    for axis in range(count):
        dim, kernel = data[axis + 2], weight[axis + 2]
        if not isinstance(kernel, int):
            return [None]
        window = dilations[axis] * (kernel - 1)
        padded = dim if same else dims.add(dim, pads[axis] + pads[axis + count] - window)
        if same:
            spatial.append(dims.floor_divide(dims.add(dim, strides[axis] - 1), strides[axis]))
        else:
            spatial.append(dims.add(dims.floor_divide(dims.subtract(padded, 1), strides[axis]), 1))
    return [(data[0], weight[0], *spatial)]


def _gather_nd(node: Node) -> Shapes:
    data, indices = node.shape(0), node.shape(1)
    if data is None or indices is None or not isinstance(indices[-1], int):
        return [None]
    return [(*indices[:-1], *data[node.attribute("batch_dims", 0) + indices[-1] :])]


def _range(node: Node) -> Shapes:
    ends = [None if value is None or value.elements is None else value.elements for value in node.inputs]
    numbers = [None if item is None or item.size != 1 else item.reshape(-1)[0] for item in ends]
    if None in numbers or numbers[2] != 1:
        return [(dims.symbol(f"{node.out.name}.0"),)]
    return [(dims.subtract(numbers[1], numbers[0]),)]


def _shape(node: Node) -> Shapes:
    shape = node.shape(0)
    return [None if shape is None else (len(shape_range(node, len(shape))),)]


def _quantized_matmul(node: Node) -> Shapes:
    left, right = node.shape(0), node.shape(3)
    if left is None or right is None or len(left) < 2 or len(right) < 2:
        return [None]
    batch = broadcast([left[:-2], right[:-2]])
    return [None if batch is None else (*batch, left[-2], right[-1])]


def _attention(node: Node) -> Shapes:
    query, value = node.shape(0), node.shape(2)
    if query is None or value is None:
        return [None]
    if len(query) == 4:
        return [(*query[:3], value[3])]
    heads, kv = node.attribute("q_num_heads", 0), node.attribute("kv_num_heads", 0)
    size = dims.divide(value[2], kv) if kv else None
    return [None if size is None else (query[0], query[1], dims.multiply(size, heads))]


def _split_to_sequence(node: Node) -> Shapes:
    """A sequence of equal chunks, as a tensor with a leading axis that numbers them."""
    shape = node.shape(0)
    if shape is None:
        return [None]
    axis = node.attribute("axis", 0) % len(shape)
    whole = shape[axis]
    if not isinstance(whole, int):
        return [None]
    if node.input(1) is None:
        kept = (*shape[:axis], 1, *shape[axis + 1 :]) if node.attribute("keepdims", 1) else (
            *shape[:axis],
            *shape[axis + 1 :],
        )
        return [(whole, *kept)]
    sizes = node.literal(1)
    if sizes is None:
        return [None]
    chunks = {int(size) for size in sizes.reshape(-1)}
    if len(chunks) != 1 or whole % (size := chunks.pop()) or (sizes.ndim and sizes.size * size != whole):
        return [None]
    return [(whole // size, *shape[:axis], size, *shape[axis + 1 :])]


def _sequence_at(node: Node) -> Shapes:
    shape = node.shape(0)
    return [None if shape is None else shape[1:]]


def _einsum(node: Node) -> Shapes:
    equation = str(node.attribute("equation", "")).replace(" ", "")
    if "..." in equation or "->" not in equation:
        return [None]
    inputs, _, output = equation.partition("->")
    sizes: dict[str, Dim] = {}
    for index, term in enumerate(inputs.split(",")):
        shape = node.shape(index)
        if shape is None or len(shape) != len(term):
            return [None]
        for letter, dim in zip(term, shape, strict=True):
            sizes[letter] = broadcast_dim(sizes.get(letter, 1), dim)
    return [tuple(sizes[letter] for letter in output)]


_ELEMENTWISE = (
    "Add Sub Mul Div Pow Where And Or Xor Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mean Sum"
    " Mod PRelu BitwiseAnd BitwiseOr BitShift"
).split()
_SAME = (
    "Identity Cast Softmax LogSoftmax LayerNormalization RMSNormalization Dropout Relu Gelu Erf Tanh Sigmoid"
    " Sqrt Neg Exp Log Abs Clip Not IsNaN IsInf Softplus Elu Selu LeakyRelu HardSwish HardSigmoid Floor Ceil"
    " Round Sign Reciprocal Sin Cos Trilu CumSum QuantizeLinear DequantizeLinear Swish Mish Celu"
    " RotaryEmbedding ScatterND ScatterElements InstanceNormalization GroupNormalization BatchNormalization"
    " LpNormalization Hardmax Softsign ThresholdedRelu DynamicQuantizeLinear SimplifiedLayerNormalization"
).split()

SHAPE_FUNCTIONS: dict[str, Callable[[Node], Shapes]] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(
        ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceL1", "ReduceProd"), _reduce
    ),
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "Gemm": _gemm,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Flatten": _flatten,
    "GatherND": _gather_nd,
    "Range": _range,
    "Shape": _shape,
    "QLinearMatMul": _quantized_matmul,
    "Attention": _attention,
    "SplitToSequence": _split_to_sequence,
    "SequenceAt": _sequence_at,
    "Tile": _tile,
    "Pad": _pad,
    "GatherElements": _gather_elements,
    "Conv": _conv,
    "Einsum": _einsum,
}
