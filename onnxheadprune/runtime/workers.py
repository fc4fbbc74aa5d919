"""Several pieces of work at a time, their results in order.

A session that runs on all cores leaves them idle between its operators, and whenever Python has the word. Feeds are
many and know nothing of each other; so some are worked on side by side, each on its part of the cores.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from onnxheadprune.model.tensors import Array
from onnxheadprune.runtime.providers import usable_cores
from onnxheadprune.runtime.session import CPU, Provider

WORTH_THREADS = 2048
"""Rows of a square matrix from which on several threads are faster than one. With fewer rows they mostly wait for each
other, and burn the cores that the sessions run on: on two cores a solve of 256 unknowns takes many times the processor
time, one of 1,536 twice."""


def algebra_threads(rows: int) -> AbstractContextManager[object]:
    """Linear algebra on the cores of one worker, or on one where matrices are small; never on more than was set up."""
    set_up = [item["num_threads"] for item in _controller().info() if item["user_api"] == "blas"]
    limits = min([algebra_workers(rows).threads or 1, *set_up])
    limited: AbstractContextManager[object] = _controller().limit(limits=limits, user_api="blas")
    return limited


def algebra_workers(rows: int) -> Workers:
    """Return who shares several pieces of linear algebra."""
    return _sharing() if rows >= WORTH_THREADS else replace(_sharing(), threads=1)


@functools.cache
def _controller() -> ThreadpoolController:
    """The controller of the libraries that are loaded; finding them takes milliseconds."""
    return ThreadpoolController()


Item = TypeVar("Item")
Result = TypeVar("Result")

MOST = 4
"""Pieces of work at a time, at most: each holds the activations of a feed."""


@dataclass(frozen=True)
class Workers:
    """Threads that share the cores."""

    count: int = 1  # pieces of work at a time
    threads: int | None = None  # cores for each of them; None leaves that to ONNX Runtime

    def each(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the result of some work for each item, in order and only a few items ahead of the consumer."""
        if self.count == 1:
            yield from map(work, items)
            return
        pool = ThreadPoolExecutor(self.count, thread_name_prefix="onnxheadprune")
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def over(
        self,
        work: Callable[[int], object],
        feeds: Sequence[Mapping[str, Array]],
        done: Callable[[], object] = int,
    ) -> None:
        """Process batches by index, the largest first, so that no worker waits long for the last one."""
        sizes = [sum(array.size for array in feed.values()) for feed in feeds]
        for _ in self.each(work, sorted(range(len(feeds)), key=sizes.__getitem__, reverse=True)):
            done()


def workers_on(provider: Provider, pieces: int = MOST) -> Workers:
    """Those for sessions on a provider: a device has its own ways to be busy.

    Args:
        pieces: of work that there are; fewer of them have more cores each.
    """
    return _sharing(pieces) if provider.name == CPU else Workers()


def _sharing(pieces: int = MOST) -> Workers:
    """Those that all cores are shared among."""
    count = max(min(usable_cores(), MOST, pieces), 1)
    return Workers(count, usable_cores() // count)
