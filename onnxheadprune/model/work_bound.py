"""The bound on the work of one analysis, after which it says where it stopped.

A file of some kilobytes can ask for years of work, in ways that nobody lists. So the processor time of the thread that
analyses is bounded: `SECONDS`, and more for more nodes. Honest models take a tenth of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Iterator
from types import TracebackType

from onnx import ModelProto

from onnxheadprune.errors import ModelError
from onnxheadprune.model.bodies import nodes_of_model
from onnxheadprune.model.graph.view import Node

SECONDS = 30.0
SECONDS_PER_NODE = 0.002
LOOK = 1.0
"""Seconds between two looks at the clock."""


class _TooLongError(BaseException):
    """Raised in a thread that has worked for too long; no handler of exceptions takes it for one of its own."""


_bound = threading.local()


@contextlib.contextmanager
def bounded_work(model: ModelProto, name: str) -> Iterator[None]:
    """Bound the work of an analysis; one within another belongs to that.

    Raises:
        ModelError: if it was stopped; the sentence names the node that was looked at.
    """
    if getattr(_bound, "is_set", False):
        yield
        return
    _bound.is_set = True
    watch = _Watch(model)
    try:
        try:
            yield
        finally:
            watch.stop()
    except _TooLongError as stopped:
        watch.stop()
        where = _where(stopped.__traceback__)
        raise ModelError(
            f"{name} takes more than {_allowed(model):.0f} seconds of work to analyse; that was stopped{where}"
        ) from None
    finally:
        _bound.is_set = False


def _allowed(model: ModelProto) -> float:
    return SECONDS + SECONDS_PER_NODE * sum(1 for _ in nodes_of_model(model))


class _Watch:
    """Interrupts the thread that made it once that has worked for too long."""

    def __init__(self, model: ModelProto) -> None:
        self._model, self._thread = model, threading.get_ident()
        self._start = _spent(self._thread)
        self._lock, self._done = threading.Lock(), threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def stop(self) -> None:
        """Send nothing from now on; what was sent arrives in here at the latest."""
        with self._lock:
            self._done.set()
        time.sleep(0)

    def _look(self) -> None:
        allowed = SECONDS
        while not self._done.wait(LOOK):
            if _spent(self._thread) - self._start <= allowed:
                continue
            allowed = _allowed(self._model)  # nodes are counted only where there is a need
            with self._lock:
                if not self._done.is_set() and _spent(self._thread) - self._start > allowed:
                    # Sent each time, since what it meets may hold it up: a callback of native code, say.
                    _send(self._thread, _TooLongError)


def _spent(thread: int) -> float:
    """Seconds of work of a thread, or where no clock tells, of this process."""
    if hasattr(time, "pthread_getcpuclockid"):
        return time.clock_gettime(time.pthread_getcpuclockid(thread))
    return time.process_time()


def _send(thread: int, kind: type[BaseException]) -> None:
    """Let an exception arrive in a thread when it next runs Python."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))


def _where(trace: TracebackType | None) -> str:
    """The node that was looked at, as far in as one was."""
    found = None
    while trace is not None:
        found = next((item for item in trace.tb_frame.f_locals.values() if isinstance(item, Node)), found)
        trace = trace.tb_next
    return "" if found is None else f" at {found.label}"
