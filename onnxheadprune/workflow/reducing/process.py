"""Command lines run in a process of its own, with limits, that is replaced when it dies or takes too long.

A fresh process for every trial would spend a second on loading libraries; one that stays needs a few hundredths. What
it holds in memory from earlier trials could change an outcome, so the first and the last trial get a fresh one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Protocol, TypeAlias

from onnxheadprune.workflow.reducing.ending import TIMEOUT, Ending
from onnxheadprune.workflow.reducing.running import runs

Attempt: TypeAlias = Callable[[tuple[str, ...]], Ending]
"""Runs a command line and says how it ended; a function of a module, so that another process finds it."""


Task: TypeAlias = tuple[str, ...] | str
"""A command line to run, or a model to see whether it runs."""


class Trier(Protocol):
    """Runs command lines."""

    def run(self, arguments: tuple[str, ...]) -> Ending:
        """How a command line ends."""

    def runs(self, model: str) -> bool:
        """Whether the model of a path runs."""

    def renew(self) -> None:
        """Forgets what earlier command lines left in memory."""


class ProcessTrier:
    """Runs them in another process."""

    def __init__(self, attempt: Attempt, seconds: float, memory: int | None) -> None:
        """Starts nothing yet.

        Args:
            attempt: runs a command line.
            seconds: after which one is ended.
            memory: bytes that the process may hold, None for any number; Linux alone keeps to it.
        """
        self._attempt, self._seconds, self._memory = attempt, seconds, memory
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None

    def run(self, arguments: tuple[str, ...]) -> Ending:
        """How a command line ends; the death of the process and the limit are endings."""
        answer = self._answer(arguments)
        assert isinstance(answer, Ending)
        return answer

    def runs(self, model: str) -> bool:
        """Whether the model of a path runs, within the limit and without killing the process."""
        return self._answer(model) is True

    def _answer(self, task: Task) -> Ending | bool:
        if self._process is None or not self._process.is_alive():
            self.renew()
            self._start()
        assert self._pipe is not None
        try:
            self._pipe.send(task)
            if not self._pipe.poll(self._seconds):
                self.renew()
                return Ending(TIMEOUT)
            answer: Ending | bool = self._pipe.recv()
        except (EOFError, OSError):
            return Ending(self._died())
        return answer

    def renew(self) -> None:
        """Ends the process; the next command line gets a fresh one."""
        if self._process is not None:
            _kill(self._process)
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        process = context.Process(target=_serve, args=(other, self._attempt, self._memory))
        process.start()
        self._process = process
        other.close()

    def _died(self) -> int:
        assert self._process is not None
        self._process.join(5)
        code = self._process.exitcode
        self.renew()
        return -signal.SIGKILL if code is None else code


def _kill(process: SpawnProcess) -> None:
    """Ends a process and those that it started."""
    if process.pid is not None and hasattr(os, "killpg"):
        # It may not lead its group yet, or be gone.
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _serve(pipe: Connection, attempt: Attempt, memory: int | None) -> None:
    # An interrupt from the terminal goes to the group of the parent, which ends this one.
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        # Libraries write there past Python.
        os.dup2(nothing, stream)
    _limit(memory)
    with contextlib.suppress(EOFError, OSError):
        while True:
            task: Task = pipe.recv()
            pipe.send(runs(task) if isinstance(task, str) else attempt(task))


def _limit(memory: int | None) -> None:
    if memory is None:
        return
    try:
        import resource
    except ImportError:
        return
    # Address space would count what CUDA reserves and never touches.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
