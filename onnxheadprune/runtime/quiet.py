"""Silencing of libraries that print to the command's own output.

Standard output and standard error belong to the whole process. Two threads that put another stream in their place at
the same time would each restore what the other one has put there.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

STREAMS = threading.RLock()
"""Held by who puts another stream in the place of one of the process."""


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Nothing that is printed meanwhile is seen."""
    with STREAMS, Path(os.devnull).open("w", encoding="utf-8") as sink, contextlib.redirect_stdout(sink):
        yield
