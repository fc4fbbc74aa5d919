"""Chunks of a sequence: whoever names them by number, or says their sizes, follows what is left of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, parser

from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.live import FULL
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.sweep_result import Seed
from onnxheadprune.operators import view_of
from tests.liveness.masks import Array, Draw, compact, lives
from tests.liveness.one_node import assert_same, pruned, run

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
    """A graph that divides axis 1 into chunks, and hands out some, one by one or joined."""
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


def check(model: ModelProto, feed: Mapping[str, Array], draw: Draw) -> str:
    """Narrow what is handed out to a random part, and compare; the word for what came of it."""
    view = view_of(model)
    readers = [node for node in view.nodes if node.op_type == "Identity" and node.out.is_graph_output]
    demands = {node: draw(lives(node.shape(0) or ())) for node in readers}
    swept = sweep(
        [Seed(node, 0, live, "test") for node, live in demands.items()],
        frozenset(value for value in view.main.values.values() if value.name in ("x", "parts")),
    )
    left = swept.kept.get(view.main.values["x"], FULL)
    try:
        smaller = pruned(view, swept)
    except RefusedError:
        return "refused"
    after = run(smaller, {**feed, "x": compact(feed["x"], left)})
    wanted = {node.out.name: live for node, live in demands.items()}
    for name, value in run(model, feed).items():
        for got, want in zip(_chunks(after[name]), _chunks(value), strict=True):
            assert_same(got, compact(want, wanted.get(name, FULL)))
    return "whole" if left.is_full else "cut"


def _chunks(value: Any) -> list[Array]:
    return value if isinstance(value, list) else [value]


@pytest.mark.each_choice
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("split", SPLITS)
def test_numbers_and_sizes_of_chunks_follow_what_is_left(split: str, reader: str) -> None:
    outcomes: Counter[str] = Counter()
    count = SPLITS[split][2]

    @settings(max_examples=settings().max_examples // 2)
    @given(st.data())
    def narrowed(data: st.DataObject) -> None:
        draw = data.draw
        numbers = draw(st.lists(st.integers(-count, count - 1), min_size=1, max_size=3))
        feed = {
            "x": np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE),
            "number": np.array(draw(st.integers(-count, count - 1))),
        }
        outcomes[check(model_of(split, reader, numbers, draw(st.booleans())), feed, draw)] += 1

    narrowed()
    assert outcomes["cut"] or reader not in ("nobody", "a number that is computed"), outcomes
