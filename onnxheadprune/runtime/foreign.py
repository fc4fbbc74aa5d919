"""Functions of the user are called in here: whatever they raise is theirs to read, and never ends this program."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from onnxheadprune.errors import HeadPruneError, UsageError, heed

STREAMS = threading.RLock()
"""Held by who puts another stream in the place of one of the process."""


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Nothing that is printed meanwhile is seen."""
    with STREAMS, Path(os.devnull).open("w", encoding="utf-8") as sink, contextlib.redirect_stdout(sink):
        yield


@contextlib.contextmanager
def users_code(what: str, did: str = "failed") -> Iterator[None]:
    """Turn what the user's code raises into one sentence; `sys.exit()` in it is an error as any other."""
    try:
        yield
    except (HeadPruneError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        heed(error)
        raise UsageError(f"{what} {did}: {error!r:.500}") from error


def import_function(spec: str, what: str) -> Callable[..., Any]:
    """A user's function by "module:function"; its module may lie in the working directory."""
    module_name, _, function_name = spec.rpartition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        with users_code(f"{what} {spec}", "cannot be imported"):
            function = getattr(importlib.import_module(module_name), function_name)
    finally:
        sys.path.pop(0)
    if not callable(function):
        raise UsageError(f"{what} {spec} is no function")
    return function  # type: ignore[no-any-return]
