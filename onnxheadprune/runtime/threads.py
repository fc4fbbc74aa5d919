"""Threads of NumPy's linear algebra, beside those of ONNX Runtime."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from dataclasses import replace

from threadpoolctl import ThreadpoolController

from onnxheadprune.runtime.workers import Workers, sharing

WORTH_THREADS = 2048
"""Rows of a square matrix from which on several threads are faster than one. With fewer rows they mostly wait for each
other, and burn the cores that the sessions run on: on two cores a solve of 256 unknowns takes many times the processor
time, one of 1,536 twice."""


def algebra_threads(rows: int) -> AbstractContextManager[object]:
    """Linear algebra on the cores of one worker, or on one where matrices are small; never on more than was set up.

    Args:
        rows: of the largest square matrix.
    """
    set_up = [item["num_threads"] for item in _controller().info() if item["user_api"] == "blas"]
    limits = min([algebra_workers(rows).threads or 1, *set_up])
    limited: AbstractContextManager[object] = _controller().limit(limits=limits, user_api="blas")
    return limited


def algebra_workers(rows: int) -> Workers:
    """Return who shares several pieces of linear algebra.

    Args:
        rows: of the largest square matrix.
    """
    return sharing() if rows >= WORTH_THREADS else replace(sharing(), threads=1)


@functools.cache
def _controller() -> ThreadpoolController:
    """Return what finds the libraries that are loaded; looking for them takes milliseconds."""
    return ThreadpoolController()
