"""stdout and stderr as they really are: closed, full, piped into a program that left, or ASCII only.

Whether a report could be printed is no verdict on a model: what a command has to say decides the exit code.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class Streams:
    """Standard output and error, and whether they were closed.

    Attributes:
        lost: why some of stdout was not written, None if all was, or nobody wanted it.
    """

    lost: str | None = None


class _Steadfast:
    """A text stream that goes on without its file when that cannot be written any more."""

    def __init__(self, stream: TextIO, streams: Streams | None) -> None:
        self._stream, self._streams = stream, streams

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            # click would write UTF-8 into it where the terminal has ASCII only.
            raise AttributeError(name)
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        # The reader of a pipe left (`| head`): it has all that it wanted.
        if self._streams is not None and not isinstance(error, BrokenPipeError):
            self._streams.lost = error.strerror or str(error)
        with contextlib.suppress(OSError, io.UnsupportedOperation):
            # What is still in the buffer goes where nobody complains, also when Python exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextlib.contextmanager
def steadfast() -> Iterator[Streams]:
    """Replaces stdout and stderr by streams that write what they can, in the letters that they have."""
    _reopen_closed()
    before, streams = (sys.stdout, sys.stderr), Streams()
    wrapped = [(stream, stream.errors) for stream in before if isinstance(stream, io.TextIOWrapper)]
    for stream, _ in wrapped:
        stream.reconfigure(errors="backslashreplace")
    out: Any = _Steadfast(before[0], streams)
    err: Any = _Steadfast(before[1], None)
    sys.stdout, sys.stderr = out, err
    try:
        yield streams
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
        for stream, errors in wrapped:
            stream.reconfigure(errors=errors)


def _reopen_closed() -> None:
    """Gives closed standard streams the null device. Else the next file that is opened would be one of them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is given, which is this one.
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
