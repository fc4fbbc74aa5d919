"""Cases that once broke a rule, smallest form."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from onnxheadprune import RefusedError
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.model.graph.dims import Shape, symbol
from onnxheadprune.operators import view_of
from tests.liveness.masks import Array
from tests.liveness.one_node import Case, Setup, Unknown, build_model, check, default_setup
from tests.liveness.strategies import vector

FIRST, SECOND = np.array([True, False]), np.array([False, True])
DIAGONAL = np.array([[True, False], [False, True]])


def data(*shape: int) -> Array:
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def only(*demands: Live) -> Callable[[Shape], Live]:
    """Demands of the readers in node order."""
    rest = iter(demands)
    return lambda _: next(rest)


FIXED1 = frozenset({1})
MICROSOFT = "com.microsoft"


def since(op_type: str, *attributes: str) -> pytest.MarkDecorator:
    """Left out where the installed ONNX Runtime is older than an operator of its own, or than its attributes."""
    known = [
        item for item in runtime.get_all_operator_schema() if (item.domain, item.name) == (MICROSOFT, op_type)
    ]
    there = any(set(attributes) <= set(item.attributes) for item in known)
    return pytest.mark.skipif(not there, reason=f"{op_type} is newer than this ONNX Runtime")


def test_flatten_counts_a_negative_axis_from_the_rank() -> None:
    case = Case("Flatten", (data(2, 2, 2),), {"axis": -2})
    check(case, default_setup(case), only(Live.over((0,), FIRST)))


def test_expand_target_that_does_not_describe_the_live_axis() -> None:
    case = Case("Expand", (data(2, 1), vector(3)), fixed=FIXED1)
    check(case, default_setup(case), only(Live.over((0,), FIRST)))


def test_reduction_over_an_empty_list_of_axes_reduces_all() -> None:
    case = Case("ReduceSum", (data(2), vector()), {"keepdims": 0}, fixed=FIXED1, opset=18)
    check(case, default_setup(case), lambda shape: Live.over((0,), FIRST) if shape else FULL)


def test_gather_index_counted_from_the_end_of_a_narrowed_axis() -> None:
    case = Case("Gather", (data(2, 2), np.array(-2)), {"axis": 0}, fixed=FIXED1)
    check(case, default_setup(case), only(Live.over((0,), FIRST)))


def test_gather_of_different_indices_per_row() -> None:
    case = Case("Gather", (data(2, 2), vector(1, 0)), {"axis": 1}, fixed=FIXED1)
    check(case, default_setup(case), only(Live.over((0, 1), DIAGONAL)))


def test_reshape_zero_copies_an_axis_that_is_narrowed() -> None:
    case = Case("Reshape", (data(1, 2, 2), vector(2, 0)), fixed=FIXED1)
    check(case, default_setup(case), only(Live.over((0,), FIRST)))


def test_split_into_pieces_that_keep_different_rows() -> None:
    case = Case("Split", (data(2, 2),), {"axis": 1}, types=(1, 1))
    check(case, default_setup(case), only(Live.over((0,), FIRST), Live.over((0,), SECOND)))


@pytest.mark.parametrize(("axis", "rows"), [(1, 2), (0, 4)])
@pytest.mark.parametrize("runs_first", [True, False])
def test_split_into_pieces_that_keep_rows_and_every_second_position(
    axis: int, rows: int, runs_first: bool
) -> None:
    case = Case("Split", (data(2 * rows, 2),), {"axis": axis}, types=(1, 1))
    demands = Live.over((0,), FIRST, ((0, symbol("B2")),)), Live.over((0,), FIRST)
    setup = replace(default_setup(case), rows={0: (0, rows)})
    with contextlib.suppress(RefusedError):  # Nothing can be picked from an axis of unknown length.
        check(case, setup, only(*(demands if runs_first else demands[::-1])))


def test_slice_backwards_along_another_axis_stays_reversed() -> None:
    case = Case(
        "Slice", (data(2, 4), vector(1), vector(-5), vector(1), vector(-1)), fixed=frozenset({1, 2, 3, 4})
    )
    check(case, default_setup(case), only(Live.over((0,), FIRST)))


def test_fully_live_slice_of_an_initializer_that_another_node_narrows() -> None:
    case = Case("Slice", (data(4), vector(2), vector(3), vector(0)), fixed=frozenset({0, 1, 2, 3}))
    setup = Setup(("initializer",) * 4, side=True)
    check(case, setup, only(FULL, Live.over((0,), np.array([True, False, False, False]))))


def test_edge_gather_over_two_axes_in_an_old_opset() -> None:
    case = Case("Slice", (data(2, 2, 2),), {"starts": [0], "ends": [1], "axes": [0]}, opset=9)
    setup = Setup(("input",), free=False)
    check(case, setup, only(Live.over((1, 2), DIAGONAL)))


def test_dynamic_quantization_couples_the_rows_it_quantizes() -> None:
    inputs = (
        np.array([[1.0, 2.0], [9.0, 8.0]], np.float32),
        np.array([[3], [5]], np.int8),
        np.array(0.01, np.float32),
        np.array(1, np.int8),
    )
    case = Case("DynamicQuantizeMatMul", inputs, domain=MICROSOFT, fixed=frozenset({1, 2, 3}))
    check(case, default_setup(case), only(Live.over((0,), FIRST)))


@pytest.mark.parametrize("unknown", [Unknown("x5"), Unknown("x5", 1)], ids=str)
def test_bias_of_heads_of_unknown_shape_is_not_taken_for_one_of_all_heads(unknown: Unknown) -> None:
    inputs = (data(1, 3, 4), data(1, 3, 4), data(1, 3, 4), None, None, data(1, 2, 3, 3))
    case = Case("MultiHeadAttention", inputs, {"num_heads": 2}, domain=MICROSOFT)
    setup = Setup(("input",) * 6, declared=True, free=False, unknown=unknown)
    check(case, setup, only(Live.over((2,), np.array([True, True, False, False]))))


def test_slice_of_a_ragged_mask_over_three_axes() -> None:
    """Which rows of the sliced axis survive is asked of everything below them."""
    mask = np.zeros((2, 3, 2), dtype=bool)
    mask[0, 0, 0] = mask[0, 1, 1] = True
    case = Case("Slice", (data(2, 4, 2), vector(1), vector(4), vector(1)), fixed=frozenset({1, 2, 3}))
    check(case, default_setup(case), only(Live.over((0, 1, 2), mask)))


def test_fully_live_slice_of_a_value_that_keeps_more() -> None:
    """An edge gather brings it exactly what it reads, so its bounds move too."""
    case = Case("Slice", (data(2, 3), vector(1, 2), vector(2, 3)), fixed=frozenset({1, 2}))
    setup = Setup(("input", "initializer", "initializer"), side=True)
    check(case, setup, only(FULL, Live.over((1,), np.array([True, False, False]))))


def test_window_that_would_start_behind_the_data_is_none() -> None:
    attributes = {"kernel_shape": [1], "strides": [2], "ceil_mode": 1}
    case = Case("AveragePool", (data(1, 1, 4),), attributes, opset=19)
    check(case, default_setup(case), lambda shape: Live.over((2,), np.arange(shape[2]) == shape[2] - 1))


@since("CausalConvWithState", "channels_last")
def test_states_of_channels_that_lie_last_lose_channels_and_no_positions() -> None:
    inputs = (data(1, 3, 2), data(2, 1, 3), None, data(1, 2, 2))
    handed = frozenset({1})
    case = Case(
        "CausalConvWithState", inputs, {"channels_last": 1}, types=(1, 1), bare=handed, domain=MICROSOFT
    )
    assert check(case, default_setup(case), only(Live.over((2,), FIRST)))


@since("LinearAttentionGate")
def test_decay_whole_and_rate_of_one_head() -> None:
    inputs = (data(1, 1, 2), data(2), data(2), data(1, 1, 2))
    case = Case("LinearAttentionGate", inputs, types=(1, 1), domain=MICROSOFT)
    check(case, default_setup(case), only(FULL, Live.over((2,), FIRST)))


@pytest.mark.parametrize("storage", ["initializer", "input"])
@pytest.mark.parametrize("free", [True, False])
def test_rows_of_their_own_beside_an_axis_without_positions(storage: str, free: bool) -> None:
    case = Case("Clip", (data(2, 2, 0, 1),))
    check(case, Setup((storage,), free=free), only(Live.over((0, 1), DIAGONAL)))


def test_rows_of_their_own_cannot_be_picked_over_three_axes_without_positions() -> None:
    case = Case("CumSum", (data(2, 2, 2, 0), np.array(0)), fixed=FIXED1)
    mask = np.multiply.outer(DIAGONAL, FIRST)
    with pytest.raises(RefusedError, match="without positions"):
        check(case, Setup(("input", "initializer"), free=False), only(Live.over((0, 1, 2), mask)))


def test_refused_carrier_still_needs_its_whole_input() -> None:
    """The Transpose cannot follow the ragged mask, so the other reader alone must not narrow what both read."""
    case = Case("Transpose", (data(2, 2, 2),))
    setup = Setup(("input",), side=True)
    check(case, setup, only(Live.over((0, 1), DIAGONAL), Live.over((0,), FIRST)))


def test_reshape_zero_copies_an_axis_that_is_narrowed_on_both_sides() -> None:
    case = Case("Reshape", (data(2, 4), vector(0, 2, 2)), fixed=FIXED1)
    check(case, default_setup(case), only(Live.over((0,), FIRST)))


def test_edge_gather_around_an_axis_of_unknown_size() -> None:
    """Three axes are picked from together, and the batch lies between them."""
    mask = np.zeros((2, 2, 2), dtype=bool)
    mask[0, 0, 0] = mask[1, 0, 1] = True
    case = Case("Transpose", (data(2, 4, 2, 2),), {"perm": [0, 1, 3, 2]}, symbolic={0: (1,)})
    check(case, Setup(("input",), free=False), only(Live.over((0, 2, 3), mask)))


def test_edge_gather_over_a_period_behind_another_axis() -> None:
    """An axis of unknown size holds heads in turn, and is picked from together with an axis in front of it."""
    case = Case("Transpose", (data(2, 4, 2),), {"perm": [0, 1, 2]}, symbolic={0: (1,)})
    check(case, Setup(("input",), free=False), only(Live.over((0, 1), np.outer(FIRST, SECOND))))
    with pytest.raises(RefusedError, match="no fixed size"):
        check(case, Setup(("input",), free=False), only(Live.over((0, 1), DIAGONAL)))


def test_windows_that_start_behind_the_data_beside_an_axis_of_unknown_length() -> None:
    sizes = {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [0, 0, 0, 1], "ceil_mode": 1}
    case = Case("AveragePool", (data(1, 1, 4, 2),), sizes, opset=19)
    model = build_model(case, replace(default_setup(case), rows={0: (2, 2)}))
    pool = next(node for node in view_of(model).nodes if node.op_type == "AveragePool")
    assert pool.out.shape is not None
    assert pool.out.shape[3] == 1  # onnx infers 2


def test_edge_gather_over_runs_behind_another_axis() -> None:
    """Entries that are runs of positions are not taken for entries that repeat."""
    case = Case("CumSum", (data(2, 4), np.array(0)), fixed=FIXED1)
    setup = Setup(("input", "initializer"), free=False, rows={0: (1, 2)})
    wanted = Live.over((0, 1), np.outer(SECOND, SECOND), ((1, symbol("B2")),))
    with pytest.raises(RefusedError, match="no fixed size"):
        check(case, setup, only(wanted))


def test_a_target_that_nobody_knows_may_copy_an_axis_that_is_narrowed() -> None:
    case = Case("Reshape", (data(2, 2), vector(1, 0, 2)))
    check(case, Setup(("input", "input"), declared=True), only(Live.over((2,), FIRST)))


@pytest.mark.parametrize("op_type", ["Conv", "FusedConv"])
def test_a_bias_of_unknown_length_is_no_single_number(op_type: str) -> None:
    domain = MICROSOFT if op_type == "FusedConv" else ""
    case = Case(op_type, (data(1, 1, 2, 2), data(2, 1, 1, 1), data(2)), {"group": 1}, domain=domain)
    setup = replace(default_setup(case), declared=True, unknown=Unknown("x2"))
    assert not check(case, setup, only(Live.over((1,), FIRST)))


@pytest.mark.parametrize("unknown", ["", "x0", "x2", "x4"])
def test_scores_are_as_wide_as_the_past_and_the_keys(unknown: str) -> None:
    """onnx infers other sizes, or fewer axes, where it does not know the shape of an input."""
    states = (*(data(1, 2, 2, 2) for _ in range(3)), None, data(1, 2, 3, 2), data(1, 2, 3, 2))
    case = Case("Attention", states, {"qk_matmul_output_mode": 0}, types=(1,) * 4, opset=23)
    check(case, replace(default_setup(case), unknown=Unknown(unknown)), only(FULL, FULL, FULL, FULL))
