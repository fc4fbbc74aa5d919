"""Operators, one file for each close family: its shape, its numbers, its propagation rule, its cost.

Importing this package declares which file has which operators to the tables that others ask (`model.graph.tables`,
`liveness.registry`, `liveness.fused`). A file is imported when one of its operators is first looked up: for a model
without convolutions nothing of them is loaded. Views are annotated by `annotated` here, so whoever analyses a model
has imported this package.
"""

from onnxheadprune.model.graph.facts import GRADIENTS, OPERATORS
from onnxheadprune.model.graph.infer import annotate
from onnxheadprune.model.graph.view import GraphView

FILES = {
    "arithmetic": "Add And Div Equal Mul Neg Not Or Pow Reciprocal Sqrt Sub",
    "attention": (
        "Attention LinearAttention ai.onnx.preview.FlexAttention com.microsoft.Attention "
        "com.microsoft.DecoderMaskedMultiHeadAttention com.microsoft.GroupQueryAttention "
        "com.microsoft.LinearAttention com.microsoft.MultiHeadAttention com.microsoft.PackedAttention "
        "com.microsoft.PackedMultiHeadAttention com.microsoft.QAttention com.microsoft.SparseAttention"
    ),
    "attention_cost": (
        "Attention com.microsoft.Attention com.microsoft.DecoderMaskedMultiHeadAttention "
        "com.microsoft.GroupQueryAttention com.microsoft.MultiHeadAttention com.microsoft.PackedAttention "
        "com.microsoft.QAttention com.microsoft.SparseAttention"
    ),
    "attention_group_query": "com.microsoft.GroupQueryAttention com.microsoft.SparseAttention",
    "attention_linear": (
        "CausalConvWithState LinearAttention com.microsoft.CausalConvWithState "
        "com.microsoft.LinearAttention com.microsoft.LinearAttentionGate"
    ),
    "attention_multi_head": (
        "com.microsoft.DecoderMaskedMultiHeadAttention com.microsoft.MultiHeadAttention "
        "com.microsoft.PackedMultiHeadAttention"
    ),
    "attention_packed": (
        "com.microsoft.Attention com.microsoft.PackedAttention com.microsoft.QAttention "
        "com.microsoft.QOrderedAttention com.microsoft.QOrderedLongformerAttention"
    ),
    "concat": "Concat",
    "control": (
        "GRU If LSTM Loop RNN Scan com.microsoft.BeamSearch com.microsoft.DynamicQuantizeLSTM "
        "com.microsoft.GreedySearch com.microsoft.Sampling com.microsoft.WhisperBeamSearch"
    ),
    "convolution": (
        "AveragePool Conv ConvInteger ConvTranspose GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool "
        "MaxPool QLinearConv com.microsoft.FusedConv"
    ),
    "einsum": "Einsum",
    "elementwise": (
        "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor "
        "Cast CastLike Ceil Celu Clip Cos Cosh Div Dropout Elu Equal Erf Exp Floor Gelu Greater "
        "GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean "
        "Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh "
        "Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor com.microsoft.BiasGelu "
        "com.microsoft.FastGelu com.microsoft.Gelu com.microsoft.QuickGelu"
    ),
    "expand": "ConstantOfShape Expand Tile",
    "gather": "Gather GatherElements GatherND com.microsoft.GatherBlockQuantized",
    "matmul": (
        "Einsum Gemm MatMul MatMulInteger QLinearMatMul com.microsoft.DynamicQuantizeMatMul "
        "com.microsoft.FusedGemm com.microsoft.FusedMatMul com.microsoft.FusedMatMulActivation "
        "com.microsoft.GemmFastGelu com.microsoft.MatMulIntegerToFloat com.microsoft.QGemm "
        "com.microsoft.QOrderedMatMul com.microsoft.TransposeMatMul"
    ),
    "matmul_nbits": "com.microsoft.MatMulBnb4 com.microsoft.MatMulNBits",
    "mixture": "com.microsoft.MoE com.microsoft.QMoE",
    "normalization": (
        "BatchNormalization GroupNormalization InstanceNormalization LayerNormalization LpNormalization "
        "MeanVarianceNormalization RMSNormalization SimplifiedLayerNormalization com.microsoft.BiasAdd "
        "com.microsoft.EmbedLayerNormalization com.microsoft.QEmbedLayerNormalization "
        "com.microsoft.QSkipLayerNormalization com.microsoft.SimplifiedLayerNormalization "
        "com.microsoft.SkipLayerNormalization com.microsoft.SkipSimplifiedLayerNormalization"
    ),
    "pad": "Pad",
    "quantization": (
        "DequantizeLinear DynamicQuantizeLinear QuantizeLinear com.microsoft.DequantizeLinear "
        "com.microsoft.DequantizeWithOrder com.microsoft.QLinearAdd com.microsoft.QLinearAveragePool "
        "com.microsoft.QLinearConcat com.microsoft.QLinearGlobalAveragePool com.microsoft.QLinearLeakyRelu "
        "com.microsoft.QLinearMul com.microsoft.QLinearReduceMean com.microsoft.QLinearSigmoid "
        "com.microsoft.QLinearSoftmax com.microsoft.QLinearWhere com.microsoft.QOrderedGelu "
        "com.microsoft.QOrderedLayerNormalization com.microsoft.QuantizeLinear "
        "com.microsoft.QuantizeWithOrder"
    ),
    "ranges": "Range",
    "reduction": (
        "ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
        "ReduceProd ReduceSum ReduceSumSquare"
    ),
    "reshape": "Flatten Reshape",
    "resize": "GridSample Resize",
    "rotary": "RotaryEmbedding com.microsoft.MRotaryEmbedding com.microsoft.RotaryEmbedding",
    "scan": "CumSum TopK Trilu",
    "scatter": "ScatterElements ScatterND",
    "sequences": "SequenceAt SplitToSequence",
    "shape_of": "Shape Size",
    "slicing": "Slice",
    "softmax": "Hardmax LogSoftmax Softmax com.microsoft.BiasSoftmax",
    "split": "Split",
    "transpose": "Squeeze Transpose Unsqueeze",
    "whole_numbers": "Add Cast Div Equal Identity Max Min Mod Mul Neg Sub Where",
}
"""Per file the operators that it says something of; those of other domains than the standard one with their domain."""
GRADIENT_FILES = {
    "attention_parts": (
        "Attention RotaryEmbedding com.microsoft.Attention com.microsoft.GroupQueryAttention "
        "com.microsoft.MultiHeadAttention com.microsoft.RotaryEmbedding"
    ),
    "elementwise_gradients": (
        "Abs Add Cast CastLike Clip Cos DequantizeLinear Div Dropout Elu Erf Exp Gelu HardSigmoid "
        "HardSwish Identity LeakyRelu Log Max Mean Min Mish Mul Neg PRelu Pow QuantizeLinear Reciprocal "
        "Relu Sigmoid Sin Softplus Softsign Sqrt Sub Sum Swish Tanh Where com.microsoft.BiasGelu "
        "com.microsoft.FastGelu com.microsoft.Gelu com.microsoft.QuickGelu"
    ),
    "matmul_gradients": "Conv Einsum Gemm MatMul com.microsoft.FusedMatMul com.microsoft.TransposeMatMul",
    "moving_gradients": (
        "Concat CumSum Expand Flatten Gather GatherElements GatherND Pad Reshape ScatterElements ScatterND "
        "Slice Split Squeeze Tile Transpose Trilu Unsqueeze"
    ),
    "normalization_gradients": (
        "BatchNormalization GroupNormalization InstanceNormalization LayerNormalization LpNormalization "
        "RMSNormalization SimplifiedLayerNormalization com.microsoft.BiasAdd "
        "com.microsoft.EmbedLayerNormalization com.microsoft.SimplifiedLayerNormalization "
        "com.microsoft.SkipLayerNormalization com.microsoft.SkipSimplifiedLayerNormalization"
    ),
    "reduction_gradients": (
        "LogSoftmax ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceSum "
        "ReduceSumSquare Softmax"
    ),
}
"""Gradients that stand in a file of their own, beside that of the operators: only who trains loads them."""

for _files, _catalog in ((FILES, OPERATORS), (GRADIENT_FILES, GRADIENTS)):
    for _file, _names in _files.items():
        _catalog.declare(f"{__name__}.{_file}", _names.split())


def annotated(view: GraphView) -> GraphView:
    """Gives every value of `view` its symbolic shape, element type and known elements."""
    return annotate(view)
