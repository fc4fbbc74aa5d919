"""Functions of the user are called in here: whatever they raise is theirs to read, and never ends this program."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from onnxheadprune.errors import HeadPruneError, UsageError, heed_interrupt


@contextlib.contextmanager
def users_code(what: str, did: str = "failed") -> Iterator[None]:
    """Turns what the user's code raises into one sentence; `sys.exit()` in it is an error as any other.

    Args:
        what: whose code it is ("the data function data:feeds").
        did: what it could not do.

    Raises:
        UsageError: for everything but interrupts and what this package raises on purpose.
    """
    try:
        yield
    except (HeadPruneError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        heed_interrupt(error)
        raise UsageError(f"{what} {did}: {error!r:.500}") from error
