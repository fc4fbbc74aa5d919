"""One meaning of speed-up: the smallest one over the grid that was truly measured."""

from __future__ import annotations

import pytest

from tests.benchmarking.made_results import speed_up


def test_noise_reaches_no_target() -> None:
    sure, unsure, slower = (0.7, 0.75, 0.8), (0.6, 0.75, 1.02), (1.1, 1.2, 1.3)
    assert speed_up(sure).reaches(1.3) and speed_up(sure).value == pytest.approx(1 / 0.75)
    assert not speed_up(unsure).reaches(1.01) and speed_up(unsure).value == 1
    assert not speed_up(sure, unsure).reaches(1.3) and speed_up(sure, unsure).verdict == "mixed"
    assert speed_up(sure, slower).value == pytest.approx(1 / 1.2)
    assert str(speed_up(sure, unsure)) == "batch 1: 1.33x; batch 2: no measurable difference (1.33x)"
