"""Linear algebra on small matrices takes one thread, and leaves the setting as it was."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from onnxheadprune.runtime.threads import WORTH_THREADS, algebra_threads


def blas_threads() -> set[int]:
    np.linalg.solve(np.eye(3), np.eye(3))
    return {item["num_threads"] for item in threadpool_info() if item["user_api"] == "blas"}


def test_small_matrices_take_one_thread_and_large_ones_what_was_set() -> None:
    with threadpool_limits(2, user_api="blas"):
        outside = blas_threads()
        with algebra_threads(WORTH_THREADS - 1):
            assert blas_threads() <= {1}
        with algebra_threads(WORTH_THREADS):
            assert blas_threads() == outside
        assert blas_threads() == outside
