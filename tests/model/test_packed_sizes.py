"""Sizes of weights in blocks: counted as the weights that they hold, not as the bytes that hold them."""

from __future__ import annotations

import onnxheadprune
from tests.graphs import toys
from tests.graphs.toys import packed

HIDDEN, HEADS = 64, 8
WIDTH = HEADS * toys.HEAD_SIZE


def test_packed_weights_count_as_their_plain_twins() -> None:
    plain = toys.attention(heads=HEADS, hidden=HIDDEN)
    (bare,), (blocks,) = (onnxheadprune.inspect(model).sites for model in (plain, packed(plain, 0)))
    assert bare.params == blocks.params == 4 * HIDDEN * WIDTH + 3 * WIDTH
    assert bare.flops_per_token == blocks.flops_per_token == 2 * 4 * HIDDEN * WIDTH
    assert blocks.bytes < bare.bytes
    assert onnxheadprune.inspect(plain).elements == onnxheadprune.inspect(packed(plain, 0)).elements
