"""Decoders whose attention and feed-forward block read one stream and are added to it together, as GPT-NeoX's are."""

from __future__ import annotations

from onnx import ModelProto

from tests.graph_text import model_of

HEAD = """
<ir_version: 9, opset_import: ["" : 17]>
parallel (int64[batch,sequence] input_ids) => (float[batch,sequence,19] logits)
<int64[4] split = {0, 0, 3, 4}, int64[3] merge = {0, 0, 12}, float[19,12] embed, float[12,19] head, WEIGHTS>
{
    stream0 = Gather(embed, input_ids)
"""
LAYER = """
    q@ = MatMul(stream@, wq@)
    k@ = MatMul(stream@, wk@)
    v@ = MatMul(stream@, wv@)
    qs@ = Reshape(q@, split)
    ks@ = Reshape(k@, split)
    vs@ = Reshape(v@, split)
    qh@ = Transpose<perm=[0, 2, 1, 3]>(qs@)
    kh@ = Transpose<perm=[0, 2, 3, 1]>(ks@)
    vh@ = Transpose<perm=[0, 2, 1, 3]>(vs@)
    scores@ = MatMul(qh@, kh@)
    shares@ = Softmax<axis=-1>(scores@)
    context@ = MatMul(shares@, vh@)
    turned@ = Transpose<perm=[0, 2, 1, 3]>(context@)
    merged@ = Reshape(turned@, merge)
    attended@ = MatMul(merged@, wo@)
    up@ = MatMul(stream@, wu@)
    active@ = Tanh(up@)
    fed@ = MatMul(active@, wd@)
"""
JOINED = {
    False: "    both@ = Add(attended@, fed@)\n    stream% = Add(both@, stream@)\n",
    True: """
    attended_biased@ = Add(attended@, bo@)
    fed_biased@ = Add(fed@, bd@)
    both@ = Add(attended_biased@, fed_biased@)
    stream% = Add(both@, stream@)
""",
}
WEIGHTS = "float[12,12] wq@, float[12,12] wk@, float[12,12] wv@, float[12,12] wo@, float[12,16] wu@, float[16,12] wd@"
BIASES = ", float[12] bo@, float[12] bd@"


def decoder(layers: int = 3, *, bias: bool = False) -> ModelProto:
    """`input_ids [batch, sequence]` to `logits`; with biases behind both parts of a layer, or without."""
    numbers = [str(layer) for layer in range(layers)]
    declared = (WEIGHTS + BIASES if bias else WEIGHTS for _ in numbers)
    text = HEAD.replace("WEIGHTS", ", ".join(map(str.replace, declared, "@" * layers, numbers)))
    for layer in range(layers):
        text += (LAYER + JOINED[bias]).replace("@", str(layer)).replace("%", str(layer + 1))
    return model_of(f"{text}    logits = MatMul(stream{layers}, head)\n}}")
