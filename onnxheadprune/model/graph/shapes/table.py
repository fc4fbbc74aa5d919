"""The table of shape functions: each takes a node and returns the shapes of its outputs, None where unknown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnxheadprune.model.graph.dims import Shape
from onnxheadprune.model.graph.shapes import arithmetic, pieces, views
from onnxheadprune.model.graph.view import Node

Shapes = Sequence[Shape | None]
_ELEMENTWISE = (
    "Add Sub Mul Div Pow Where And Or Xor Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mean"
    " Sum Mod PRelu BitwiseAnd BitwiseOr BitwiseXor BitShift"
).split()
_SAME = (
    "Identity Cast CastLike Softmax LogSoftmax LayerNormalization RMSNormalization Dropout Relu Gelu Erf Tanh"
    " Sigmoid Sqrt Neg Exp Log Abs Clip Not IsNaN IsInf Softplus Elu Selu LeakyRelu HardSwish"
    " HardSigmoid Floor Ceil Round Sign Reciprocal Sin Cos Trilu CumSum QuantizeLinear"
    " DequantizeLinear Swish Mish Celu RotaryEmbedding ScatterND ScatterElements"
    " InstanceNormalization GroupNormalization BatchNormalization LpNormalization Hardmax Softsign"
    " ThresholdedRelu DynamicQuantizeLinear SimplifiedLayerNormalization"
    " Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Shrink BitwiseNot"
).split()

SHAPE_FUNCTIONS: dict[str, Callable[[Node], Shapes]] = {
    **dict.fromkeys(_ELEMENTWISE, arithmetic.elementwise),
    **dict.fromkeys(_SAME, arithmetic.same),
    **dict.fromkeys(
        ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceL1", "ReduceProd"),
        arithmetic.reduce,
    ),
    "MatMul": arithmetic.matmul,
    "MatMulInteger": arithmetic.matmul,
    "Gemm": arithmetic.gemm,
    "Reshape": views.reshape,
    "Transpose": views.transpose,
    "Unsqueeze": views.unsqueeze,
    "Squeeze": views.squeeze,
    "Expand": views.expand,
    "ConstantOfShape": views.constant_of_shape,
    "Concat": pieces.concat,
    "Split": pieces.split,
    "Slice": pieces.slice_of,
    "Gather": pieces.gather,
    "Flatten": views.flatten,
    "GatherND": pieces.gather_nd,
    "Range": views.range_of,
    "Resize": views.resize,
    "Shape": views.shape_of,
    "QLinearMatMul": arithmetic.quantized_matmul,
    "Attention": arithmetic.attention,
    "FlexAttention": arithmetic.attention,
    "LinearAttention": arithmetic.linear_attention,
    "SplitToSequence": pieces.split_to_sequence,
    "SequenceAt": pieces.sequence_at,
    "Tile": views.tile,
    "Pad": pieces.pad,
    "TopK": pieces.top_k,
    "GatherElements": pieces.gather_elements,
    "Conv": arithmetic.conv,
    "ConvInteger": arithmetic.conv,
    "ConvTranspose": arithmetic.conv_transpose,
    "GridSample": arithmetic.grid_sample,
    "QLinearConv": arithmetic.conv,
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), arithmetic.pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), arithmetic.global_pool),
    "Einsum": arithmetic.einsum,
}
