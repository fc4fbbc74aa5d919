"""Polynomial dimensions against plain integers put in for the symbols."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import Dim, Symbolic, symbol
from onnxheadprune.model.graph.operator import ELEMENTWISE, OPERATORS

B, S = symbol("b"), symbol("s")


def at(dim: Dim, numbers: dict[str, int]) -> int:
    """The value of a polynomial."""
    if isinstance(dim, int):
        return dim
    return sum(factor * math.prod(numbers[atom] for atom in atoms) for atoms, factor in dim.terms)


def _grown(inner: st.SearchStrategy[Dim]) -> st.SearchStrategy[Dim]:
    pairs = st.tuples(inner, inner)
    return pairs.map(lambda p: dims.add(*p)) | pairs.map(lambda p: dims.multiply(*p))


LEAVES: st.SearchStrategy[Dim] = st.integers(-4, 6) | st.sampled_from([B, S])
POLYNOMIALS = st.recursive(LEAVES, _grown, max_leaves=6)
VALUES = st.fixed_dictionaries({"b": st.integers(1, 7), "s": st.integers(1, 7)})

QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Without time limits, which fail on a loaded machine."""


@QUIET
@given(POLYNOMIALS, POLYNOMIALS, VALUES)
def test_arithmetic_is_that_of_integers(left: Dim, right: Dim, numbers: dict[str, int]) -> None:
    assert at(dims.add(left, right), numbers) == at(left, numbers) + at(right, numbers)
    assert at(dims.subtract(left, right), numbers) == at(left, numbers) - at(right, numbers)
    assert at(dims.multiply(left, right), numbers) == at(left, numbers) * at(right, numbers)


@QUIET
@given(POLYNOMIALS, POLYNOMIALS)
def test_equal_polynomials_are_equal_values(left: Dim, right: Dim) -> None:
    assert dims.add(left, right) == dims.add(right, left)
    assert dims.multiply(left, right) == dims.multiply(right, left)
    assert dims.subtract(dims.add(left, right), right) == left
    assert not isinstance(left, Symbolic) or any(atoms for atoms, _ in left.terms)


@pytest.mark.slow
@QUIET
@given(POLYNOMIALS, POLYNOMIALS, VALUES)
def test_division_is_exact_or_none(left: Dim, right: Dim, numbers: dict[str, int]) -> None:
    found = dims.divide(left, right)
    if found is not None and at(right, numbers):
        assert at(found, numbers) * at(right, numbers) == at(left, numbers)
    whole = dims.quotient([left, right], [right])
    assert whole in (left, None) or right == 0
    assert right == 0 or dims.quotient([left, right], [right]) == left


@pytest.mark.slow
@QUIET
@given(POLYNOMIALS, st.integers(1, 6), VALUES)
def test_floor_division_by_a_number(left: Dim, right: int, numbers: dict[str, int]) -> None:
    found = dims.floor_divide(left, right)
    if isinstance(found, int) or all(atom in numbers for atoms, _ in found.terms for atom in atoms):
        assert at(found, numbers) == at(left, numbers) // right


@pytest.mark.slow
@QUIET
@given(POLYNOMIALS, VALUES)
def test_divisor_divides_every_value(dim: Dim, numbers: dict[str, int]) -> None:
    sure = dims.divisor(dim)
    assert sure == 0 or at(dim, numbers) % sure == 0


def test_product_and_text() -> None:
    assert dims.product([]) == 1
    assert dims.product([B, 12, S]) == dims.multiply(dims.multiply(B, S), 12)
    assert str(dims.multiply(12, B)) == "12*b"
    assert dims.quotient([dims.multiply(B, 4), S], [S, B]) == 4


def test_only_sums_of_products_are_never_negative() -> None:
    spelled = dims.floor_divide(dims.subtract(S, 8), B)
    assert all(dims.never_negative(dim) for dim in (0, 3, B, dims.add(dims.multiply(B, S), 2)))
    assert all(dims.never_negative(dims.floor_divide(dim, 4)) for dim in (S, dims.add(S, 3)))
    assert not any(
        dims.never_negative(dim) for dim in (-1, dims.subtract(S, 8), dims.subtract(S, B), spelled)
    )


def test_a_name_may_spell_a_product() -> None:
    assert dims.parsed_dim("4*b") == dims.multiply(4, B)
    assert dims.parsed_dim("b * s*2") == dims.multiply(2, dims.multiply(B, S))
    for name in ("b", "b + 1", "past-4*b", "2*3", "4*", "9" * 5000 + "*b"):
        assert dims.parsed_dim(name) == symbol(name)


def test_what_passes_liveness_on_element_by_element_has_a_shape() -> None:
    assert [name for name in ELEMENTWISE if OPERATORS[name].shape is None] == []


@pytest.mark.parametrize("outer", [2, 3, 4])
@pytest.mark.parametrize("inner", [2, 5])
@pytest.mark.parametrize("moved", [-7, 0, 3])
@pytest.mark.parametrize("times", [1, 3])
def test_strides_in_a_row_are_one_stride(outer: int, inner: int, moved: int, times: int) -> None:
    """Exporters write the length behind two convolutions by two divisions, or by one."""
    n = dims.symbol("n")
    start = dims.add(dims.multiply(n, times), moved)
    nested = dims.floor_divide(dims.add(dims.floor_divide(start, inner), 1), outer)
    at_once = dims.floor_divide(dims.add(start, inner), inner * outer)
    assert nested == at_once
    for size in range(8, 99):
        number = ((times * size + moved) // inner + 1) // outer
        assert (times * size + moved + inner) // (inner * outer) == number
