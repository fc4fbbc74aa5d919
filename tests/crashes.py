"""Processes that are killed while they write, and what they leave. Shared with `benchmarks/robustness.py`."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx

from onnxheadprune import prune
from onnxheadprune.cli import main

STEPS = tuple(
    "open write copy_file_range ftruncate fchmod fsync link replace rename close unlink mkdir rmdir".split()
)
State = dict[str, str]


def complete(target: Path) -> State:
    """Digests of a model and of all the data it refers to. Raises if any of it is missing."""
    found = {"model": _digest(target)}
    model = onnx.load(target, load_external_data=False)
    for tensor in model.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries.get("location", target.name) != target.name:
            data = target.parent / entries["location"]
            assert data.stat().st_size >= int(entries["offset"]) + int(entries["length"])
            found["data"] = _digest(data)
    return found


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def in_child(action: Callable[[], Any]) -> int:
    """The process id of a child that does `action` and exits."""
    child = os.fork()
    if child:
        return child
    # Sessions of the parent that are garbage would wait for threads that a child does not have.
    gc.freeze()
    code = 1
    with contextlib.suppress(BaseException):
        action()
        code = 0
    os._exit(code)


def pruned_and_killed_after(seconds: float, source: Path, target: Path, heads: str, **settings: Any) -> bool:
    """Kills a pruning process at a moment; whether it was still at work."""
    child = in_child(lambda: prune(source, target, heads=heads, validate=False, **settings))
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def stopped_at(step: int, action: Callable[[], Any], sent: signal.Signals = signal.SIGKILL) -> bool:
    """Kill or interrupt a process just before (even steps) or after (odd ones) a call of the system.

    Returns:
        Whether it had that many steps.
    """

    def watched() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with _watched(_counted(), step, sent):
                action()
        except KeyboardInterrupt:
            os._exit(130)

    _, status = os.waitpid(in_child(watched), 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 130, -signal.SIGKILL)
    return code != 0


def pruned_and_killed_at(step: int, source: Path, target: Path | None, heads: str, **settings: Any) -> bool:
    """Kills a pruning process at a step."""
    return stopped_at(step, lambda: prune(source, target, heads=heads, validate=False, **settings))


def interrupted_at(step: int, stderr: Path, *arguments: object) -> int:
    """The exit code of a command that is interrupted, as by Ctrl-C, at such a step."""

    def action() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with (
            stderr.open("w") as stream,
            contextlib.redirect_stderr(stream),
            _watched(_counted(), step, signal.SIGINT),
        ):
            code = main([str(argument) for argument in arguments])
        os._exit(code)

    _, status = os.waitpid(in_child(action), 0)
    return os.waitstatus_to_exitcode(status)


def _counted() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


@contextlib.contextmanager
def _watched(counter: Iterator[int], step: int, sent: signal.Signals) -> Iterator[None]:
    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(counter) == step:
                os.kill(os.getpid(), sent)
            result = function(*args, **kwargs)
            if next(counter) == step:
                os.kill(os.getpid(), sent)
            return result

        return call

    before = {name: getattr(os, name) for name in STEPS if hasattr(os, name)}
    for name, function in before.items():
        setattr(os, name, deadly(function))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(os, name, function)


def litter(folder: Path, target: Path) -> set[str]:
    """Names in a folder that do not belong to the model."""
    names = {path.name for path in folder.iterdir()} - {target.name}
    if target.suffix != ".onnx" or not target.exists():
        return names
    model = onnx.load(target, load_external_data=False)
    used = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return names - used
