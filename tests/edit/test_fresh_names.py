"""New nodes and tensors get names that are free."""

from __future__ import annotations

from onnxheadprune import prune
from tests.graph_text import model_of


def test_a_name_that_something_else_has_is_left_to_it() -> None:
    """A model may come with any names, also with those that a cut would give."""
    model = model_of(
        """
        <ir_version: 9, opset_import: ["" : 17]>
        block (float[batch,sequence,4] x) => (float[batch,sequence,4] y)
        <int64[4] split = {0, 0, 3, 2}, int64[3] merge = {0, 0, 6}, int64[3] "merge/onnxheadprune_0_0_4" = {0, 0, 4},
         float[4,6] q, float[4,6] k, float[4,6] v, float[6,4] o>
        {
            qp = MatMul(x, q)
            kp = MatMul(x, k)
            vp = MatMul(x, v)
            qs = Reshape(qp, split)
            ks = Reshape(kp, split)
            "split/onnxheadprune_0_0_2_2" = Reshape(vp, split)
            qh = Transpose<perm=[0, 2, 1, 3]>(qs)
            kh = Transpose<perm=[0, 2, 3, 1]>(ks)
            vh = Transpose<perm=[0, 2, 1, 3]>("split/onnxheadprune_0_0_2_2")
            scores = MatMul(qh, kh)
            weights = Softmax<axis=-1>(scores)
            context = MatMul(weights, vh)
            back = Transpose<perm=[0, 2, 1, 3]>(context)
            merged = Reshape(back, merge)
            projected = MatMul(merged, o)
            same = Reshape(projected, "merge/onnxheadprune_0_0_4")
            y = Add(same, x)
        }
        """
    )
    once = prune(model, heads="0:0", provider="cpu")
    twice = prune(once.model, heads="0:1", provider="cpu")
    assert {result.validation.verdict for result in (once, twice) if result.validation} == {"passed"}
