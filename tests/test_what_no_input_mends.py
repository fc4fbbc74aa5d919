"""Where no input can help, nobody is told to give other inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

from onnxheadprune import apply_plan, plan_pruning, validate
from onnxheadprune.attention.sites.find import view_of
from onnxheadprune.errors import MissingKernelError
from onnxheadprune.runtime import Session
from onnxheadprune.runtime.providers import resolve_provider
from onnxheadprune.selection.activations.data import random_data
from tests import toys


def test_a_weight_that_holds_nan_is_named() -> None:
    model = toys.attention()
    weight = toys.get_initializer(model, "attn.q.weight").copy()
    weight[0, :] = np.nan
    toys.set_initializer(model, "attn.q.weight", weight)
    result = validate(model, apply_plan(plan_pruning(model, "0:1"), model))
    assert result.verdict == "inconclusive"
    assert "attn.q.weight holds NaN itself" in result.reason
    assert "--data" not in result.reason


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented

    def run(*_: Any) -> Any:
        raise missing("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : of rank 7")

    monkeypatch.setattr(Session, "_run", run)


@pytest.mark.usefixtures("no_kernel")
def test_a_kernel_that_is_missing_is_no_matter_of_inputs() -> None:
    model = toys.attention()
    smaller = apply_plan(plan_pruning(model, "0:1"), model)
    with pytest.raises(MissingKernelError, match="of rank 7") as raised:
        validate(model, smaller)
    assert "--data" not in str(raised.value)
    with pytest.raises(MissingKernelError, match="of rank 7"):
        random_data(view_of(model), resolve_provider("cpu"))
