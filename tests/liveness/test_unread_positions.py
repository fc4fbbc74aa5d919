"""What nobody reads in the original is not dead because of heads: it stays as it is, whoever picks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from onnxheadprune.attention.planning import analyse
from onnxheadprune.edit.edits import SetDim, SliceTensor
from tests.attention.block_graph import Net
from tests.attention.cuts import check_cut
from tests.attention.net_parts import WIDTH, D, H, context_of, merged, projected, split
from tests.attention.token_readers import FIXED, READS, B, S

MORE = 4
"""Rows of a table beyond the longest sequence."""


def sliced(net: Net, bias: Any) -> Any:
    cut = net.op("Slice", bias, net.ints(MORE), net.ints(S + MORE), net.ints(1))
    return net.op("Slice", cut, net.ints(0), net.ints(S), net.ints(2))


def gathered(net: Net, bias: Any) -> Any:
    rows = net.op("Gather", bias, net.ints(*range(S)), axis=1)
    return net.op("Gather", rows, net.ints(*range(S)), axis=2)


def split_off(net: Net, bias: Any) -> Any:
    rows = net.op("Split", bias, net.ints(S, MORE), outputs=2, axis=1)[0]
    return net.op("Split", rows, net.ints(MORE, S), outputs=2, axis=2)[1]


@pytest.mark.each_choice
@pytest.mark.parametrize("pick", [sliced, gathered, split_off])
@pytest.mark.parametrize("computed", [False, True], ids=["stored", "computed"])
def test_a_table_longer_than_the_sequence_loses_heads_alone(
    pick: Callable[[Net, Any], Any], computed: bool
) -> None:
    net = Net(FIXED)
    x = net.input("x", (B, S, WIDTH), "---")
    bias = stored = net.weight("bias", H, S + MORE, S + MORE)
    if computed:
        bias = net.op("Mul", bias, net.op("ReduceMean", x, net.ints(0, 1, 2), keepdims=0))

    heads = partial(split, net, x)
    scores = net.op("MatMul", heads("q", 0, 2, 1, 3), heads("k", 0, 2, 3, 1))
    weights = net.op("Softmax", net.op("Add", scores, pick(net, bias)), axis=-1)
    context = net.op("MatMul", weights, heads("v", 0, 2, 1, 3))
    model = net.export([projected(net, merged(net, context))])
    for gone in ([1], [0, 2]):
        check_cut(model, net.feed, gone)
        cuts = [
            item.edit
            for item in analyse(model, {0: gone}, "table").plan.edits
            if isinstance(item.edit, SliceTensor)
        ]
        assert {(cut.selection.axes, cut.target == cut.name) for cut in cuts if cut.name == stored} == {
            ((0,), True)
        }


@pytest.mark.parametrize("how", READS)
def test_tokens_keep_their_number(how: str) -> None:
    """No declared size but that of heads and channels changes, and nothing is picked anew."""
    net = Net(FIXED)
    x = net.input("x", (B, S, WIDTH), "---")
    model = net.export([projected(net, READS[how](net, context_of(net, x), H * D))])
    plan = analyse(model, {0: [1]}, "tokens").plan
    assert plan.edge_gathers == ()
    changed = {item.edit.dim for item in plan.edits if isinstance(item.edit, SetDim)}
    assert changed <= {H - 1, (H - 1) * D}
