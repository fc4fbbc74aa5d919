"""A block of attention that every opset has the operators of, and the opsets that ONNX Runtime runs."""

from __future__ import annotations

import onnx
import onnxruntime

FIRST = 7
"""What ONNX Runtime promises to run."""


def _runs(opset: int) -> bool:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> g (float[1] x) => (float[1] y) {{ y = Mul (x, x) }}'
    )
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


OPSETS = [opset for opset in range(FIRST, onnx.defs.onnx_opset_version() + 1) if _runs(opset)]
ATTENTION = """
<ir_version: 8, opset_import: ["": {opset}]>
attention (float[batch, seq, 6] x{inputs}) => (float[batch, seq, 6] y{outputs})
<float[6, 8] wq, float[6, 8] wk, float[6, 8] wv, float[8, 6] wo, float[6] bo, float scale = {{0.5}},
 int64[4] split = {{0, 0, 4, 2}}, int64[3] merge = {{0, 0, 8}}, int64[1] zero = {{0}}, int64[1] one = {{1}},
 int64[1] heads = {{4}}, int64[1] size = {{2}}, int64[3] wider = {{0, 0, 2}}>
{{
    qx = MatMul (x, wq) kx = MatMul (x, wk) vx = MatMul (x, wv)
    {split}
    kt = Transpose <perm = [{turned}]> (k)
    scores = MatMul (q, kt) scaled = Mul (scores, scale) p = Softmax <axis = {last}> (scaled)
    c = MatMul (p, v)
    {merge}
    o = MatMul (merged, wo)
    {tail}
}}"""
SPLIT = "".join(f"{n}r = Reshape ({n}x, split) {n} = Transpose <perm = [0, 2, 1, 3]> ({n}r) " for n in "qkv")
MERGE = "ct = Transpose <perm = [0, 2, 1, 3]> (c) merged = Reshape (ct, merge)"
PLAIN = {"inputs": "", "outputs": "", "split": SPLIT, "merge": MERGE, "turned": "0, 1, 3, 2", "last": 3}
ADDED = "y = Add (x, o)"
