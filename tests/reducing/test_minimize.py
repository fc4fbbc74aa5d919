"""Delta debugging: what is left is needed, and little is tried."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from onnxheadprune.workflow.reducing.minimize import minimized


@given(st.integers(0, 60), st.sets(st.integers(0, 59)))
def test_only_what_is_needed_is_left(count: int, needed: set[int]) -> None:
    wanted = {part for part in needed if part < count}
    assert set(minimized(range(count), lambda parts: wanted <= set(parts))) == wanted


@given(st.integers(1, 40), st.randoms(use_true_random=False))
def test_nothing_that_is_left_can_go_alone(count: int, random: Random) -> None:
    """Also where the failure comes and goes with the number of parts."""
    known: dict[tuple[int, ...], bool] = {}
    parts = list(range(count))

    def fails(kept: list[int]) -> bool:
        return known.setdefault(tuple(kept), random.random() < 0.4)

    known[tuple(parts)] = True
    left = minimized(parts, fails)
    assert known[tuple(left)]
    assert not any(known[tuple(left[:at] + left[at + 1 :])] for at in range(len(left)))


def test_few_trials_where_much_can_go() -> None:
    trials = 0

    def fails(parts: list[int]) -> bool:
        nonlocal trials
        trials += 1
        return {400, 403} <= set(parts)

    assert minimized(range(1000), fails) == [400, 403]
    assert trials < 60
