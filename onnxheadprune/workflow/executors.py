"""Running independent tasks: here, in processes, or on any cluster with a `concurrent.futures` interface."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

from onnxheadprune.errors import RefusedError, UsageError, named_setting, require_packages
from onnxheadprune.model.storage.writing import temporary_folder
from onnxheadprune.runtime.custom_ops import custom_operators, custom_ops

Task = TypeVar("Task")
Result = TypeVar("Result")
LOCAL = "local"
"""In the place of an address: a Dask cluster of this machine's own."""


def run_all(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    executor: Executor | None = None,
    done: Callable[[int, Result], None] | None = None,
) -> list[Result]:
    """Results in the order of the tasks; for an executor the function and the tasks must be picklable."""
    results: dict[int, Result] = {}

    def keep(position: int, result: Result) -> None:
        results[position] = result
        if done is not None:
            done(position, result)

    if executor is None:
        for position, task in enumerate(tasks):
            keep(position, function(task))
    else:
        futures = [executor.submit(_with_library, custom_ops(), function, task) for task in tasks]
        positions = {id(future): position for position, future in enumerate(futures)}
        try:
            for future in _completed(futures):
                keep(positions[id(future)], future.result())
        except BrokenExecutor as error:
            raise RefusedError(
                f"a process that worked on a part died, perhaps out of memory: {error}"
            ) from error
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    return [results[position] for position in range(len(tasks))]


def _with_library(library: Path | None, function: Callable[[Task], Result], task: Task) -> Result:
    """Work on a task in another process, whose sessions load what those of this call do."""
    with custom_operators(library):
        return function(task)


def _completed(futures: Sequence[Future[Result]]) -> Iterator[Future[Result]]:
    """Futures as they complete; those of other libraries are awaited in order."""
    if all(isinstance(future, Future) for future in futures):
        yield from as_completed(futures)
    else:
        yield from futures


def end_with_parent() -> None:
    """End this process, started by `multiprocessing`, with the one that started it, also if that is killed."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def open_executor(jobs: int = 1, dask: str | None = None) -> Iterator[Executor | None]:
    """The executor for `--jobs`, or for `--dask` (an address, or "local" to start a cluster here); None for one job."""
    if dask is not None:
        with _dask(dask, jobs) as executor:
            yield executor
    elif jobs > 1:
        # A fresh interpreter for each: forking a process that runs ONNX Runtime's threads deadlocks.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, context, end_with_parent) as pool:
            yield pool
    else:
        yield None


@contextlib.contextmanager
def _dask(address: str, jobs: int) -> Iterator[Executor]:
    require_packages(f"{named_setting('dask')}", "dask", "distributed")
    import dask
    from distributed import Client, LocalCluster
    from distributed.comm.addressing import get_address_host_port

    connect: Any = Client
    if address == LOCAL:
        start: Any = LocalCluster
        # A process has one task at a time: two in one would share its fate. Memory is as free as with `--jobs`.
        with temporary_folder() as scratch, dask.config.set({"temporary-directory": str(scratch)}):
            made = start(n_workers=jobs, threads_per_worker=1, memory_limit=0, dashboard_address=None)
            with made as cluster, connect(cluster, set_as_default=False) as own:
                yield own.get_executor(pure=False, retries=3)
        return
    try:
        # A client that fails on its address is torn down for half a minute, so the address is read first.
        get_address_host_port(address)
        client: Any = connect(address, timeout="15s", set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise UsageError(f"no Dask scheduler answers at {address}: {error}") from error
    try:
        # Tasks are pure: what a lost worker had, another one computes again.
        executor: Executor = client.get_executor(pure=False, retries=3)
        yield executor
    finally:
        client.close()
