"""Every operator with a gradient: within 1e-4 of central differences in float64."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxheadprune import operators
from tests.gradients.differences import check
from tests.gradients.examples import ELSEWHERE, examples_of
from tests.liveness import (
    cases_contraction,
    cases_elementwise,
    cases_fused,
    cases_indexing,
    cases_mixing,
    cases_pieces,
    cases_quantized,
    cases_views,
)
from tests.liveness.strategies import Key
from tests.model.operator_records import keys_with

operators.load(gradients=True)
assert cases_contraction and cases_elementwise and cases_indexing and cases_mixing
assert cases_pieces and cases_views and cases_fused and cases_quantized

KEYS = keys_with(lambda record: record.gradient or record.parts)
FEW = settings(max_examples=settings().max_examples // 2)


def test_every_gradient_has_an_example() -> None:
    assert [key for key in KEYS if key not in ELSEWHERE and not examples_of(key)] == []


@pytest.mark.parametrize("key", [key for key in KEYS if key not in ELSEWHERE], ids=lambda key: ".".join(key))
def test_gradient_equals_differences(key: Key) -> None:
    checked: set[int] = set()

    @FEW
    @given(st.data())
    def equal(data: st.DataObject) -> None:
        case = data.draw(st.sampled_from(examples_of(key)))(data.draw, key[1])
        outcome = check(case, data.draw(st.booleans()), data.draw(st.integers(0, 99)))
        checked.update(outcome.checked)

    equal()
    assert checked, f"no gradient of {key} was ever computed"
