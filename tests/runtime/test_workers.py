"""Several feeds at a time, results in order, and the same numbers as one after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from onnxheadprune.choosing.activations import moments as moments_module
from onnxheadprune.choosing.activations.moments import Moments, gather
from onnxheadprune.runtime import CPU, CUDA, Provider
from onnxheadprune.runtime.host import usable_cores
from onnxheadprune.runtime.workers import Workers, workers_on

TWO = Workers(2, 1)


def test_results_come_in_the_order_of_the_items_although_two_are_worked_on_at_a_time() -> None:
    both = threading.Barrier(2, timeout=10)

    def work(item: int) -> int:
        # Passes only if another piece of work runs beside this one.
        both.wait()
        return item * item

    assert list(TWO.each(work, range(6))) == [0, 1, 4, 9, 16, 25]


def test_work_runs_ahead_of_who_asks_by_the_workers_and_no_more() -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            begun.append(item)
            yield item

    results = TWO.each(lambda item: item, items())
    assert next(results) == 0
    assert len(begun) == TWO.count + 1


def test_an_error_comes_where_the_result_would_and_ends_the_rest() -> None:
    done: list[int] = []

    def work(item: int) -> int:
        if item == 1:
            raise ValueError("no such feed")
        done.append(item)
        return item

    results = TWO.each(work, range(50))
    assert next(results) == 0
    with pytest.raises(ValueError, match="no such feed"):
        next(results)
    assert len(done) < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("onnxheadprune")]


def test_one_worker_is_a_plain_loop_in_this_thread() -> None:
    names = Workers().each(lambda _: threading.current_thread().name, range(3))
    assert set(names) == {threading.current_thread().name}


def test_only_the_processor_has_several_workers() -> None:
    assert workers_on(Provider(CUDA, "test")) == Workers()
    found = workers_on(Provider(CPU, "test"))
    assert found.threads is not None
    assert found.count * found.threads >= 1
    alone = workers_on(Provider(CPU, "test"), 1)
    assert alone == Workers(1, usable_cores())


def test_gathered_rows_are_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    parts = [
        (random.random((rows, 5)), random.random((rows, 3)), random.random(rows)) for rows in (3, 1, 9, 4)
    ]
    whole = Moments(5, 3)
    for part in parts:
        whole.add(*part)
    for at_once in (1, 4, 100):
        monkeypatch.setattr(moments_module, "AT_ONCE", at_once)
        found, other = gather([Moments(5, 3), Moments(5, 3)], ([part, None] for part in parts), TWO)
        assert other.count == 0
        assert found.count == whole.count
        for name in ("total", "gram", "cross", "x_sum", "y_sum", "y_square"):
            np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-12)
