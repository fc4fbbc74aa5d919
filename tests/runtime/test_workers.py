"""Several feeds at a time, results in order, and the same numbers as one after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from onnxheadprune.runtime import CPU, CUDA, Provider
from onnxheadprune.runtime.providers import usable_cores
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


def test_only_the_processor_has_several_workers() -> None:
    assert workers_on(Provider(CUDA, "test")) == Workers()
    found = workers_on(Provider(CPU, "test"))
    assert found.threads is not None
    assert found.count * found.threads >= 1
    alone = workers_on(Provider(CPU, "test"), 1)
    assert alone == Workers(1, usable_cores())
