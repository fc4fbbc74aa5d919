"""Graphs whose vocabulary cannot be cut, and graphs that leave open which outputs are logits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto

from tests.graphs import fused
from tests.vocabulary.graphs import FRONT, GRAPHS, STATES, TABLE, TIED, graph, images_at

HEAD_12 = f"{TABLE}, float[6, 12] head"
FIRST = "state = Gather<axis = 1>(y, place)\nout = MatMul(state, head)"
POOLED = "state = ReduceMean<axes = [1], keepdims = 0>(y)\nout = MatMul(state, head)"
CLASSES = "float[batch, 12] out"
LABELS = "int64[batch, seq] input_ids, int64[batch, seq] labels"


def _between(operators: str) -> ModelProto:
    """Operators between the ids and the table."""
    return graph(
        f"{operators}\nx = Gather(table, made)",
        more=f"{TABLE}, int64 zero = {{0}}, int64 one = {{1}}, int64 most = {{11}}",
        output="float[batch, many, 6] out",
    )


OPEN: dict[str, Callable[[], ModelProto]] = {
    "pooled": lambda: graph(FRONT, POOLED, more=HEAD_12, output=CLASSES),
    "last position": lambda: graph(FRONT, FIRST, more=f"{HEAD_12}, int64 place = {{-1}}", output=CLASSES),
    "wider": GRAPHS["wider_head"],
    "narrower": GRAPHS["narrower_head"],
    "in a loop": lambda: graph(
        FRONT,
        "turned = Transpose<perm = [1, 0, 2]>(y)\nmade = Scan<num_scan_inputs = 1, body = step (float[b, 6] row) =>"
        " (float[b, 9] logits) { logits = MatMul(row, head) }>(turned)\nout = Transpose<perm = [1, 0, 2]>(made)",
        more=f"{TABLE}, float[6, 9] head",
        output="float[batch, seq, 9] out",
    ),
}
"""Only who exported them knows whether `out` is logits."""
REFUSED: dict[str, Callable[[], ModelProto]] = {
    "labels are changed": lambda: graph(
        FRONT,
        "made = MatMul(y, head)\nmoved = Add(labels, one)\nplaces = Unsqueeze(moved, last)\n"
        "out = GatherElements<axis = 2>(made, places)",
        more=f"{HEAD_12}, int64 one = {{1}}, int64[1] last = {{2}}",
        inputs=LABELS,
        output="float[batch, seq, one] out",
    ),
    "loss": lambda: graph(
        FRONT,
        "made = MatMul(y, head)\nflat = Reshape(made, wide)\none = Reshape(labels, all)\n"
        "out = SoftmaxCrossEntropyLoss<ignore_index = -100>(flat, one)",
        more=f"{TABLE}, float[6, 12] head, int64[2] wide = {{-1, 12}}, int64[1] all = {{-1}}",
        inputs=LABELS,
        output="float out",
    ),
    "scores of labels": lambda: graph(
        FRONT,
        "made = MatMul(y, head)\nall = LogSoftmax<axis = -1>(made)\nown = Max(labels, zero)\n"
        "places = Unsqueeze(own, last)\nout = GatherElements<axis = 2>(all, places)",
        more=f"{TABLE}, float[6, 12] head, int64 zero = {{0}}, int64[1] last = {{2}}",
        inputs=LABELS,
        output="float[batch, seq, one] out",
    ),
    "compared with an input": lambda: graph(
        FRONT,
        "turned = Unsqueeze(labels, end)\nmany = Unsqueeze(input_ids, start)\nsame = Equal(many, turned)\n"
        "real = Cast<to = 1>(same)\nout = MatMul(real, y)",
        more=f"{TABLE}, int64[1] start = {{1}}, int64[1] end = {{2}}",
        inputs=LABELS,
        output=STATES,
    ),
    "labels of open logits": lambda: graph(
        FRONT,
        "made = MatMul(y, head)\nplaces = Unsqueeze(labels, last)\nout = GatherElements<axis = 2>(made, places)",
        more=f"{TABLE}, float[6, 9] head, int64[1] last = {{2}}",
        inputs=LABELS,
        output="float[batch, seq, one] out",
    ),
    "a mask of tokens": lambda: graph(
        FRONT,
        "made = MatMul(y, head)\nout = Add(made, allowed)",
        more=HEAD_12,
        inputs="int64[batch, seq] input_ids, float[12] allowed",
    ),
    "ids as an output": lambda: graph(
        FRONT,
        "out = Identity(y)\nmoved = Slice(input_ids, one, most, one)",
        more=f"{TABLE}, int64[1] one = {{1}}, int64[1] most = {{99}}",
        output=f"{STATES}, int64[batch, rest] moved",
    ),
    "computed ids as an output": lambda: graph(
        FRONT,
        "out = Identity(y)\nmoved = Add(input_ids, one)",
        more=f"{TABLE}, int64 one = {{1}}",
        output=f"{STATES}, int64[batch, seq] moved",
    ),
    "a choice among open logits": lambda: graph(
        FRONT,
        "made = MatMul(y, head)\nout = ArgMax<axis = -1>(made)",
        more=f"{TABLE}, float[6, 9] head",
        output="int64[batch, seq, one] out",
    ),
    "ids beyond the table": lambda: images_at(12),
    "flat logits": lambda: graph(
        FRONT,
        "made = MatMul(y, head)\nout = Flatten<axis = 1>(made)",
        more=HEAD_12,
        output="float[batch, all] out",
    ),
    "flat logits of the table": lambda: graph(
        FRONT,
        f"{TIED.replace('out', 'made')}\nsoft = Softmax(made)\nout = Reshape(soft, flat)",
        more=f"{TABLE}, int64[1] flat = {{-1}}",
        output="float[all] out",
    ),
    "logits beside others": lambda: graph(
        FRONT,
        "made = MatMul(y, head)\nturned = Transpose<perm = [0, 2, 1]>(y)\ncopied = MatMul(y, turned)\n"
        "out = Concat<axis = 2>(copied, made)",
        more=HEAD_12,
        output="float[batch, seq, all] out",
    ),
    "logits in two outputs": lambda: graph(
        FRONT,
        "made = MatMul(y, head)\nout, rest = Split<axis = 2>(made, sizes)",
        more=f"{HEAD_12}, int64[2] sizes = {{8, 4}}",
        output="float[batch, seq, 8] out, float[batch, seq, 4] rest",
    ),
    "a choice among tokens": lambda: graph(
        FRONT,
        f"{TIED.replace('out', 'made')}\nout = ArgMax<axis = -1>(made)",
        more=TABLE,
        output="int64[b, s, o] out",
    ),
    "Clip between": lambda: _between("made = Clip(input_ids, zero, most)"),
    "Add between": lambda: _between("made = Add(input_ids, one)"),
    "Where between": lambda: _between(
        "same = Equal(input_ids, one)\nother = Mul(input_ids, one)\nmade = Where(same, other, input_ids)"
    ),
    "Concat between": lambda: _between(
        "twice = Mul(input_ids, one)\nmade = Concat<axis = 1>(twice, input_ids)"
    ),
    "Mod between": lambda: _between("made = Mod(input_ids, most)"),
    "ScatterElements between": lambda: _between(
        'made = ScatterElements<axis = 1, reduction = "add">(input_ids, input_ids, input_ids)'
    ),
    "looked up twice": lambda: graph(
        "words = Gather(table, input_ids)\nmoved = Mod(input_ids, nine)\nmore = Gather(table, moved)\n"
        "x = Add(words, more)",
        more=f"{TABLE}, int64 nine = {{9}}",
        output=STATES,
    ),
    "marked": lambda: graph(
        "marks = OneHot<axis = -1>(input_ids, depth, values)\nx = MatMul(marks, table)",
        more=f"{TABLE}, int64 depth = {{12}}, float[2] values",
        output=STATES,
        given={"values": np.array([0, 1], np.float32)},
    ),
    "the best of all": lambda: graph(
        FRONT,
        "made = MatMul(y, head)\nout, chosen = TopK<axis = -1>(made, three)",
        more=f"{HEAD_12}, int64[1] three = {{3}}",
        output="float[batch, seq, 3] out, int64[batch, seq, 3] chosen",
    ),
    "a choice that is looked up": lambda: graph(
        FRONT,
        "made = MatMul(y, head)\nbest, chosen = TopK<axis = -1>(made, one)\nmore = Gather(other, chosen)\n"
        "row = Squeeze(more, axis)\nout = Add(y, row)",
        more=f"{HEAD_12}, float[12, 6] other, int64[1] one = {{1}}, int64[1] axis = {{2}}",
        output=STATES,
    ),
    "labels of wider logits": lambda: graph(
        FRONT,
        "made = MatMul(y, head)\nall = LogSoftmax<axis = -1>(made)\nplaces = Unsqueeze(labels, last)\n"
        "out = GatherElements<axis = 2>(all, places)",
        more=f"{TABLE}, float[6, 16] head, int64[1] last = {{2}}",
        inputs=LABELS,
        output="float[batch, seq, one] out",
    ),
    "a mean of tokens": lambda: graph(
        FRONT,
        f"{TIED.replace('out', 'made')}\nsoft = Softmax(made)\nout = MatMul(soft, table)",
        more=TABLE,
        output=STATES,
    ),
    "moved ids": GRAPHS["moved_ids"],
    "generating": lambda: fused.generator(),
}
"""In each a node would keep the old ids; `tests/screens/vocabulary.txt` shows that it is named."""
