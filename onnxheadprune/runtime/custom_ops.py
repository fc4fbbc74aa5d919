"""Libraries of custom operators: loaded by sessions of a call that names one, never otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from onnxheadprune.errors import UsageError, heed

_library: ContextVar[Path | None] = ContextVar("library of custom operators", default=None)


def custom_ops() -> Path | None:
    """The library that this call names."""
    return _library.get()


@contextlib.contextmanager
def custom_operators(library: Path | None) -> Iterator[None]:
    """Let sessions that are made within load a library of custom operators.

    Raises:
        UsageError: if it cannot be loaded.
    """
    if library is not None:
        from onnxheadprune.runtime import onnx_runtime

        library = library.resolve()
        load_custom_ops(onnx_runtime().SessionOptions(), library)
    token = _library.set(library)
    try:
        yield
    finally:
        _library.reset(token)


def load_custom_ops(options: Any, library: Path | None) -> None:
    """Add the operators of a library, if there is one, to the options of a session.

    Raises:
        UsageError: if it cannot be loaded.
    """
    if library is None:
        return
    if not library.is_file():
        raise UsageError(f"{library} does not exist, or is no file: there is no library of custom operators")
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:  # onnxruntime's exceptions share no base class
        heed(error)
        told = str(error).partition(" with error: ")[2] or str(error)
        raise UsageError(
            f"{library.name} is no library of custom operators for ONNX Runtime: {told}"
        ) from error
