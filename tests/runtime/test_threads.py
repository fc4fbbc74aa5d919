"""Linear algebra on small matrices takes one thread, and leaves the setting as it was."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from onnxheadprune.runtime.providers import usable_cores
from onnxheadprune.runtime.workers import WORTH_THREADS, algebra_threads, algebra_workers


def blas_threads() -> set[int]:
    np.linalg.solve(np.eye(3), np.eye(3))
    return {item["num_threads"] for item in threadpool_info() if item["user_api"] == "blas"}


def test_small_matrices_take_one_thread_and_large_ones_the_cores_of_a_worker() -> None:
    with threadpool_limits(2, user_api="blas"):
        outside = blas_threads()
        with algebra_threads(WORTH_THREADS - 1):
            assert blas_threads() <= {1}
        with algebra_threads(WORTH_THREADS):
            assert blas_threads() <= {1, 2}
        assert blas_threads() == outside
    workers = algebra_workers(WORTH_THREADS)
    assert workers.threads is not None
    assert workers.count * workers.threads <= usable_cores()
