"""Sequences of chunks are taken from what is divided where their numbers are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, parser

from onnxheadprune.model.prepare import prepared
from tests.liveness.masks import Array
from tests.liveness.one_node import assert_same, run

SHAPE = (3, 6, 4)
SPLITS = {
    "no sizes": ("", "", 6),
    "no sizes, axis dropped": (", keepdims = 0", "", 6),
    "one size": ("", "int64 sizes = {2}", 3),
    "a size that leaves a rest": ("", "int32 sizes = {4}", 2),
    "a list of sizes": ("", "int64[3] sizes = {1, 3, 2}", 3),
}
"""What is written behind the axis, the sizes that are stored, and how many chunks there are."""
READERS = {
    "nobody": ("", ""),
    "a number that is computed": (
        "computed = SequenceAt (parts, number)\n other = Identity (computed)",
        "float[] other",
    ),
    "a number in a branch": (
        """other = If (yes) <then_branch = t () => (float[] inner) { inner = SequenceAt (parts, number) },
            else_branch = e () => (float[] outer) { outer = SequenceAt (parts, minus) }>""",
        "float[] other",
    ),
    "how many there are": ("other = SequenceLength (parts)", "int64 other"),
    "all of them together": (
        "other = ConcatFromSequence <axis = 1> (parts)",
        "float[] other",
    ),
    "another sequence": (
        "more = SequenceInsert (parts, x)\n fewer = SequenceErase (more)\n other = SequenceLength (fewer)",
        "int64 other",
    ),
    "a loop": (
        """other = Loop (trips, yes, zero) <body = b (int64 i, bool on, int64 sum) => (bool again, int64 more)
        { one = SequenceAt (parts, i) dims = Size (one) more = Add (sum, dims) again = Identity (on) }>""",
        "int64 other",
    ),
    "a caller": ("", "seq(float[]) parts"),
}
"""Who else reads the sequence."""


def model_of(split: str, reader: str, numbers: list[int], joined: bool) -> ModelProto:
    """A graph that divides axis 1 into chunks, and outputs some, one by one or joined."""
    attribute, stored, _ = SPLITS[split]
    nodes, output = READERS[reader]
    chunks = [f"chunk{i} = SequenceAt (parts, n{i})" for i in range(len(numbers))]
    names = [f"chunk{i}" for i in range(len(numbers))]
    if joined:
        chunks.append(f"joined = Concat <axis = 1> ({', '.join(names)})")
        names = ["joined"]
    tensors = [stored, "int64 zero = {0}", "int64 minus = {-1}", "bool yes = {1}", "int64 trips = {2}"]
    tensors += [f"int64 n{i} = {{{number}}}" for i, number in enumerate(numbers)]
    outputs = [output, *(f"float[] {name}_read" for name in names)]
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    g (float[{", ".join(map(str, SHAPE))}] x, int64 number) => ({", ".join(filter(None, outputs))})
    <{", ".join(filter(None, tensors))}>
    {{
        parts = SplitToSequence <axis = 1{attribute}> (x{", sizes" if stored else ""})
        {" ".join(chunks)}
        {" ".join(f"{name}_read = Identity ({name})" for name in names)}
        {nodes}
    }}"""
    return parser.parse_model(text)


@pytest.mark.each_choice
@pytest.mark.parametrize("opset", [11, 12, 13, 18])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("split", SPLITS)
def test_chunks_are_taken_where_their_numbers_are_known(split: str, reader: str, opset: int) -> None:
    """The prepared model gives the same; what is known at run time only stays a sequence."""
    count = SPLITS[split][2]
    feed = {
        "x": np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE),
        "number": np.array(1),
    }
    for numbers in ([0, -1], [count - 1, 0, 0], [-count]):
        for joined in (False, True):
            model = model_of(split, reader, numbers, joined)
            model.opset_import[0].version = opset
            before = model.SerializeToString()
            made = prepared(model)
            assert model.SerializeToString() == before
            left = {node.op_type for node in made.graph.node} & {"SplitToSequence", "SequenceAt"}
            # How many chunks of one size there are depends on the axis.
            from_the_end = "= {" in SPLITS[split][1] and "[" not in SPLITS[split][1] and min(numbers) < 0
            assert bool(left) == (reader != "nobody" or from_the_end)
            after = run(made, feed)
            for name, value in run(model, feed).items():
                for got, want in zip(_chunks(after[name]), _chunks(value), strict=True):
                    assert_same(got, want)


def _chunks(value: Any) -> list[Array]:
    return value if isinstance(value, list) else [value]
