"""Turns of holding a large model, one at a time, and memory that is given back to the system."""

from __future__ import annotations

import ctypes
import functools
import sys
import weakref
from collections.abc import Callable
from typing import Protocol

KEPT = 2**28
"""Bytes of freed memory that a process keeps for its next runs."""
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`: freed bytes from which it gives them back, bytes of what it never uses again."""


class Holder(Protocol):
    """A holder of memory that can release it, and load it again."""

    def close(self) -> None:
        """Give it back."""


class Turns:
    """One of several holders at a time. Only one thread may use it; the last holder closes when it says `rest`."""

    def __init__(self, spared: int = 0) -> None:
        """Nobody holds anything yet.

        Args:
            spared: bytes up to which a holder need not close for another one.
        """
        self.spared = spared
        # Whoever is gone holds nothing, and a holder knows its turns: no cycle keeps a session alive.
        self._now: Callable[[], Holder | None] = lambda: None

    def take(self, holder: Holder) -> None:
        """It is a holder's turn: who had the one before gives back what it holds."""
        if self._now() is not holder:
            self.rest()
            give_back()
        self._now = weakref.ref(holder)

    def rest(self) -> None:
        """Nobody holds anything, as before something new is loaded."""
        holder = self._now()
        if holder is not None:
            holder.close()
        self._now = lambda: None


def give_back() -> None:
    """Give freed memory back to the system, where the C library keeps it (glibc); else nothing happens."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


@functools.cache
def use_again() -> None:
    """Let this process use freed memory again, up to `KEPT` bytes, where the C library gives it back at once (glibc).

    A session without an arena allocates each value of each run. Beyond 32 MB glibc takes that from the system and gives
    it back, which has to clear its pages every time: a third of what a choice on 512 tokens cost.
    """
    setting = _of_glibc("mallopt")
    if setting is not None:
        setting(MMAP_THRESHOLD, KEPT)
        setting(TRIM_THRESHOLD, KEPT)


@functools.cache
def _of_glibc(name: str) -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return found
