"""Plain attention of three heads as text, up to the contexts of the heads: what follows is a test's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnx import ModelProto

from tests.graph_text import model_of

H, D, WIDTH = 3, 4, 8

QUERIES_KEYS_VALUES = """
  qf = MatMul(x, wq)  kf = MatMul(x, wk)  vf = MatMul(x, wv)
  q4 = Reshape(qf, apart)  k4 = Reshape(kf, apart)  v4 = Reshape(vf, apart)
  q = Transpose<perm = [0, 2, 1, 3]>(q4)  k = Transpose<perm = [0, 2, 3, 1]>(k4)  v = Transpose<perm = [0, 2, 1, 3]>(v4)
"""
ATTENDED = "  scores = MatMul(q, k)  maps = Softmax<axis = -1>(scores)  c = MatMul(maps, v)\n"
MERGED = "  ct = Transpose<perm = [0, 2, 1, 3]>(c)  m = Reshape(ct, together)\n"
PROJECTED = "  p = MatMul(m, wo)  y = Add(p, x)\n"


def attention(
    behind: str,
    weights: str = "",
    *,
    before: str = QUERIES_KEYS_VALUES + ATTENDED,
    inputs: str = "",
    sizes: str = "b, s",
    opset: int = 18,
    given: Mapping[str, Any] | None = None,
) -> ModelProto:
    """A model of the nodes `behind` the contexts `c` [batch, heads, tokens, size], up to the output `y`.

    Args:
        behind: the nodes.
        weights: declarations of further tensors.
        before: the nodes up to the contexts.
        inputs: declarations of further inputs.
        sizes: the lengths of batch and tokens.
        opset: of the standard operators.
        given: values of tensors.
    """
    return model_of(
        f"""<ir_version: 9, opset_import: ["" : {opset}, "com.microsoft" : 1]>
        g (float[{sizes}, {WIDTH}] x{", " if inputs else ""}{inputs}) => (float[{sizes}, {WIDTH}] y)
        <float[8, 12] wq, float[8, 12] wk, float[8, 12] wv, float[12, 8] wo, int64[4] apart = {{0, 0, 3, 4}},
         int64[3] together = {{0, 0, 12}}, int64[1] i0 = {{0}}, int64[1] i1 = {{1}}, int64[1] i2 = {{2}}
         {"," if weights else ""} {weights}> {{
        {before}
        {behind} }}""",
        given=given,
    )
