"""How many threads NumPy's linear algebra takes, beside those of ONNX Runtime."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager

from threadpoolctl import ThreadpoolController

WORTH_THREADS = 2048
"""Rows of a square matrix from which on several threads are faster than one. With fewer rows they mostly wait for each
other, and burn the cores that the sessions run on: on two cores a solve of 256 unknowns takes many times the processor
time, one of 1,536 twice."""


def algebra_threads(rows: int) -> AbstractContextManager[object]:
    """Linear algebra on one thread where matrices are small, as it was set up where they are large.

    Args:
        rows: of the largest square matrix.
    """
    limited: AbstractContextManager[object] = _controller().limit(
        limits=1 if rows < WORTH_THREADS else None, user_api="blas"
    )
    return limited


@functools.cache
def _controller() -> ThreadpoolController:
    """What finds the libraries that are loaded; looking for them takes milliseconds."""
    return ThreadpoolController()
