"""Operators that mix the live axis refuse, with the right reason; what they do not mix they let pass."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from onnxheadprune import Reason
from onnxheadprune.liveness.domain import MASKS, Domain, Labels, Masks
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import UNITS
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.sweep_result import Seed, Sweep
from onnxheadprune.model.graph.dims import Shape
from onnxheadprune.operators import view_of
from onnxheadprune.settings.units import KINDS, UnitKind
from tests.liveness.masks import Array
from tests.liveness.one_node import Case, build_model, check, default_setup
from tests.liveness.strategies import INT64, vector

DATA = np.random.default_rng(0).random((2, 4, 3, 2)).astype(np.float32)
ONES = np.ones(2, np.float32)
CHANNELS = np.ones(4, np.float32)


def case(op_type: str, *more: Array, opset: int = 17, types: tuple[int, ...] = (), **attributes: Any) -> Case:
    fixed = frozenset(range(1, 1 + len(more)))
    return Case(op_type, (DATA, *more), attributes, fixed, types, opset=opset)


def swept(item: Case, axis: int, domain: Domain = MASKS) -> Sweep:
    """Only the first index of `axis` of every output is asked for."""
    view = view_of(build_model(item, default_setup(item)))
    readers = [node for node in view.nodes if node.out.name.endswith("_read")]
    seeds = []
    for reader in readers:
        shape = reader.shape(0)
        size = shape[axis] if shape else None
        if shape != ():
            seeds.append(
                Seed(
                    reader,
                    0,
                    Live.over((axis,), np.arange(size if isinstance(size, int) else 2) == 0),
                    "test",
                )
            )
    return sweep(seeds, domain=domain)


REFUSALS: dict[str, tuple[Case, int, Reason]] = {
    "softmax over heads": (case("Softmax", axis=1), 1, Reason.COUPLED),
    "softmax, negative axis": (case("Softmax", axis=-3), 1, Reason.COUPLED),
    "old softmax over all that follows": (case("Softmax", axis=1, opset=11), 3, Reason.COUPLED),
    "log softmax": (case("LogSoftmax", axis=2), 2, Reason.COUPLED),
    "hardmax": (case("Hardmax", axis=2), 2, Reason.COUPLED),
    "layer norm": (case("LayerNormalization", ONES), 3, Reason.COUPLED),
    "layer norm over two axes": (case("LayerNormalization", DATA[0, 0], axis=2), 2, Reason.COUPLED),
    "rms norm": (case("RMSNormalization", ONES, opset=23), 3, Reason.COUPLED),
    "lp norm": (case("LpNormalization", axis=1), 1, Reason.COUPLED),
    "instance norm": (case("InstanceNormalization", CHANNELS, CHANNELS), 2, Reason.COUPLED),
    "group norm": (case("GroupNormalization", CHANNELS, CHANNELS, num_groups=2, opset=21), 1, Reason.COUPLED),
    "group norm behind the channels": (
        case("GroupNormalization", CHANNELS, CHANNELS, num_groups=2, opset=21),
        2,
        Reason.COUPLED,
    ),
    "moments of positions": (case("MeanVarianceNormalization"), 2, Reason.COUPLED),
    "moments of channels": (case("MeanVarianceNormalization", axes=[-3]), 1, Reason.COUPLED),
    "cumulative sum": (case("CumSum", np.array(1)), 1, Reason.COUPLED),
    "top k": (case("TopK", vector(2), axis=1, types=(1, INT64)), 1, Reason.COUPLED),
    "dynamic quantization": (case("DynamicQuantizeLinear", types=(2, 1, 2)), 1, Reason.COUPLED),
    "triangle": (case("Trilu"), 2, Reason.INEXPRESSIBLE),
    "padded axis": (case("Pad", vector(0, 1, 0, 0, 0, 0, 0, 0)), 1, Reason.INEXPRESSIBLE),
    "backwards slice": (case("Slice", vector(3), vector(-9), vector(1), vector(-1)), 1, Reason.INEXPRESSIBLE),
    "no rule": (case("LRN", size=3), 1, Reason.NO_RULE),
}

PASSES: dict[str, tuple[Case, int]] = {
    "softmax over keys": (case("Softmax", axis=-1), 1),
    "old softmax behind the heads": (case("Softmax", axis=2, opset=11), 1),
    "layer norm within heads": (case("LayerNormalization", ONES), 1),
    "lp norm within heads": (case("LpNormalization", axis=-1), 1),
    "instance norm per channel": (case("InstanceNormalization", CHANNELS, CHANNELS), 1),
    "cumulative sum along the sequence": (case("CumSum", np.array(2)), 1),
    "triangle of scores": (case("Trilu"), 1),
    "other axis padded": (case("Pad", vector(0, 0, 1, 0, 0, 0, 0, 0)), 1),
    "repeated axis": (case("Tile", vector(1, 2, 1, 1)), 1),
    "other axis repeated": (case("Tile", vector(1, 1, 2, 1)), 1),
}

FULL_KERNEL, TAP = np.ones((4, 4, 3, 2), np.float32), np.ones((4, 1, 3, 2), np.float32)


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses(name: str) -> None:
    item, axis, reason = REFUSALS[name]
    (refusal,) = swept(item, axis).refusals.values()
    assert refusal.reason is reason
    assert item.op_type in refusal.sentence
    assert refusal.value == "y0"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.units)
@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_names_the_units_that_it_is_about(name: str, kind: UnitKind) -> None:
    """Rules know of no kind: a neuron is never called a head."""
    item, axis, reason = REFUSALS[name]
    words = {word for other in KINDS for word in (other.unit, other.units)}
    for domain in (Masks(kind.units), Labels(units=kind.units)):
        for refusal in swept(item, axis, domain).refusals.values():
            named = words & set(re.findall(r"\w+", refusal.sentence))
            assert named == ({kind.units} if reason is Reason.COUPLED else set()), refusal.sentence
            assert UNITS not in refusal.sentence


@pytest.mark.parametrize("name", PASSES)
def test_lets_pass(name: str) -> None:
    item, axis = PASSES[name]
    result = swept(item, axis)
    assert not result.refusals
    assert result.answers


POINT = np.random.default_rng(1).random((5, 4, 1, 1)).astype(np.float32)
BACK = POINT.transpose(1, 0, 2, 3).copy()
POSITIONS: dict[str, Case] = {
    "convolution of kernel 1": case("Conv", POINT),
    "with strides": case("Conv", POINT, strides=[2, 1]),
    "with padding": case("Conv", POINT, pads=[1, 0, 1, 0]),
    "padded by itself": case("Conv", POINT, auto_pad="SAME_UPPER", strides=[2, 2]),
    "with a larger kernel": case("Conv", np.ones((5, 4, 2, 1), np.float32)),
    "transposed": case("ConvTranspose", BACK),
    "transposed, with strides": case("ConvTranspose", BACK, strides=[2, 1]),
    "transposed, with more at its end": case("ConvTranspose", BACK, output_padding=[1, 0], strides=[2, 1]),
    "transposed, of a given size": case("ConvTranspose", BACK, output_shape=[4, 2], strides=[2, 1]),
    "group norm": case("GroupNormalization", CHANNELS, CHANNELS, num_groups=2, opset=21),
    "equal pieces": case("Split", axis=1, types=(1, 1)),
    "pieces of other sizes": case("Split", vector(1, 3), axis=1, types=(1, 1)),
    "one value four times": Case("Concat", (DATA[:, :1], DATA[:, :1]), {"axis": 1}),
    "two values": Case("Concat", (DATA[:, :1], DATA[:, 1:]), {"axis": 1}),
}


@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2)], ids=str)
@pytest.mark.parametrize("name", POSITIONS)
def test_some_positions_are_right_or_are_not_cut(name: str, axes: tuple[int, ...]) -> None:
    """Whatever a rule answers of some positions, what is left of the outputs is what it was; ragged demands, too."""

    def demand(shape: Shape) -> Live:
        sizes = [dim if isinstance(dim, int) else 1 for dim in (shape[axis] for axis in axes)]
        mask = np.zeros(sizes, dtype=bool)
        for row, chosen in enumerate(mask.reshape(sizes[0], -1)):
            chosen[row % chosen.size] = row != 1 or len(axes) > 1
        return Live.over(axes, mask)

    check(POSITIONS[name], default_setup(POSITIONS[name]), demand)
