"""Tensors that stay on a device, and sessions that read and write them there."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from onnxheadprune.errors import InferenceError
from onnxheadprune.runtime import CPU, CUDA, Provider, Session
from onnxheadprune.runtime.resident import Resident, ResidentSession, home_of

PROVIDER = Provider(CPU, "test")
TEXT = """
<ir_version: 9, opset_import: ["" : 17]>
graph (float[2, 3] state, float[rows, 3] given) => (float[2, 3] next, float[rows, 3] twice)
<float[3] one = {1, 1, 1}>
{
    next = Add(state, one)
    twice = Add(given, given)
}
"""
STATE = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_a_state_is_written_in_place_while_other_outputs_come_back() -> None:
    state = Resident(STATE, PROVIDER)
    session = ResidentSession(Session(parser.parse_model(TEXT), PROVIDER), {"state": state}, {"next": state})
    for rows in (1, 4, 2):
        given = np.full((3, rows), rows, np.float32).T
        found = session.run({"given": given, "more": given})
        assert list(found) == ["twice"] and np.array_equal(found["twice"], 2 * given)
    assert np.array_equal(state.copy(), STATE + 3)


def test_what_a_feed_lacks_is_not_what_it_held_before() -> None:
    state = Resident(STATE, PROVIDER)
    session = ResidentSession(Session(parser.parse_model(TEXT), PROVIDER), {"state": state})
    assert set(session.run({"given": STATE})) == {"next", "twice"}
    with pytest.raises(InferenceError, match="an input 'given' that the feed lacks"):
        session.run({})
    with pytest.raises(InferenceError, match="does not run"):
        session.run({"given": np.ones((2, 4), np.float32)})


@pytest.mark.parametrize("shared", [True, False])
def test_numbers_are_copied_both_ways(shared: bool) -> None:
    given = STATE.copy()
    state = Resident(given, PROVIDER)
    if not shared:
        # As on a device whose memory is not the host's.
        state._host = None
    given[:] = 9
    found = state.copy()
    assert np.array_equal(found, STATE)
    state.take(2 * STATE)
    assert np.array_equal(state.copy(), 2 * STATE) and np.array_equal(found, STATE)
    with pytest.raises(ValueError, match=r"\(2, 3\) cannot take one of shape \(3,\)"):
        state.take(STATE[0])


def test_only_cuda_keeps_tensors_itself() -> None:
    assert home_of(Provider(CUDA, "test")).name == CUDA
    assert home_of(Provider("TensorrtExecutionProvider", "test")).name == CPU
