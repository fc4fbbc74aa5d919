"""File systems that can do less than this one."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

POSIX = pytest.mark.skipif(
    os.name == "nt" or os.environ.get("LIKE") == "windows",
    reason="about rights, FIFOs and disks as POSIX has them",
)
"""Also where `tests/platforms` takes away what Windows does not have."""


def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a FAT file system: nothing has two names."""

    def refuses(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuses)
