"""Running independent tasks: here, in processes, or on any cluster with a `concurrent.futures` interface."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from onnxheadprune.errors import RefusedError, UsageError, require_packages
from onnxheadprune.model.storage.writing import temporary_folder
from onnxheadprune.runtime.custom_ops import custom_operators, custom_ops

Task = TypeVar("Task")
Result = TypeVar("Result")
Given = ParamSpec("Given")
GRACE = 5.0
"""Seconds that a process has to end."""
LOCAL = "local"
"""In the place of an address: a Dask cluster of this machine's own."""


def finished(
    function: Callable[[Task], Result], tasks: Iterable[Task], executor: Executor, at_once: int
) -> Iterator[tuple[int, Future[Result]]]:
    """Yield the place of each task with its future, as they are done; the function and the tasks must be picklable.

    Args:
        tasks: a task is made when its turn comes.
        at_once: how many the executor has at a time.
    """
    waiting, working = enumerate(tasks), dict[Future[Result], int]()
    try:
        while True:
            for place, task in islice(waiting, at_once - len(working)):
                working[executor.submit(_with_library, custom_ops(), function, task)] = place
            if not working:
                return
            for future in wait(working, return_when=FIRST_COMPLETED).done:
                yield working.pop(future), future
    finally:
        for future in working:
            future.cancel()


def run_all(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    executor: Executor,
    done: Callable[[int], None] = lambda _: None,
) -> list[Result]:
    """Results in the order of the tasks, see `finished`; `done` takes the place of each as it comes."""
    results: dict[int, Result] = {}
    try:
        for place, future in finished(function, tasks, executor, len(tasks)):
            results[place] = future.result()
            done(place)
    except BrokenExecutor as error:
        raise RefusedError(f"a process that worked on a part died, perhaps out of memory: {error}") from error
    return [results[place] for place in range(len(tasks))]


def _with_library(library: Path | None, function: Callable[[Task], Result], task: Task) -> Result:
    """Work on a task in another process, whose sessions load what those of this call do."""
    with custom_operators(library):
        return function(task)


class Processes(Executor):
    """Processes of this machine, each with one task at a time: one that dies fails its task alone, and is replaced."""

    def __init__(self, count: int) -> None:
        self._threads, self._own = ThreadPoolExecutor(count), threading.local()
        self._lock, self._ended = threading.Lock(), False
        self._workers: list[Any] = []

    def submit(
        self, function: Callable[Given, Result], /, *given: Given.args, **settings: Given.kwargs
    ) -> Future[Result]:
        """See `Executor`; a process that dies is a `BrokenExecutor`."""
        return self._threads.submit(self._run, partial(function, *given, **settings))

    def _run(self, task: Callable[[], Result]) -> Result:
        worker: tuple[Any, Connection] | None = getattr(self._own, "worker", None)
        if worker is None or not worker[0].is_alive():
            worker = self._own.worker = self._started()
        process, pipe = worker
        try:
            pipe.send(task)
            result, error = pipe.recv()
        except (EOFError, OSError):
            process.join(5)
            code = process.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise BrokenExecutor(f"the process died, {how}") from None
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def _started(self) -> tuple[Any, Connection]:
        # A fresh interpreter: forking a process that runs ONNX Runtime's threads deadlocks.
        context = multiprocessing.get_context("spawn")
        with self._lock:
            if self._ended:
                raise BrokenExecutor("no further process is started")
            pipe, other = context.Pipe()
            process = context.Process(target=_serve, args=(other,), daemon=True)
            process.start()
            other.close()
            self._workers.append(process)
        return process, pipe

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for what is submitted; after an error, as an interrupt is one, end it."""
        self._threads.shutdown(wait=kind is None, cancel_futures=kind is not None)
        with self._lock:
            self._ended = True
        for process in self._workers:
            process.terminate()
        for process in self._workers:
            process.join(GRACE)
            process.kill()
            process.join()


def _serve(pipe: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # An interrupt is for the parent, which ends this process: it removes what is half written, and ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with contextlib.suppress(EOFError, OSError):
        while True:
            task = pipe.recv()
            try:
                pipe.send((task(), None))
            except Exception as error:
                pipe.send((None, error))
    # No task is left, so there is no file to clean up: SIGTERM ends the process without an exception at its exit.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_with_parent() -> None:
    """End this process with the one that started it, also if that is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def open_executor(jobs: int = 1, dask: str | None = None) -> Iterator[Executor | None]:
    """The executor for `--jobs`, or for `--dask` (an address, or "local" to start a cluster here); None for one job."""
    if dask is not None:
        with _dask(dask, jobs) as executor:
            yield executor
    elif jobs > 1:
        with Processes(jobs) as pool:
            yield pool
    else:
        yield None


@contextlib.contextmanager
def _dask(address: str, jobs: int) -> Iterator[Executor]:
    require_packages("`dask`", "dask", "distributed")
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
