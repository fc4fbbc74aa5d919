"""Pages of several parts, each written by a command of its own that leaves the others as they are."""

from __future__ import annotations

import re
from pathlib import Path

FIRST = "zoo"
"""The part that stands before any mark."""
_MARK = re.compile(r"^<!-- part: (\w+) -->\n", re.MULTILINE)


def write_part(page: Path, name: str, text: str) -> None:
    """Replaces one part of a page, or adds it at the end.

    Args:
        page: made if it is not there.
        name: of the part, `FIRST` for what stands before any mark.
        text: what it says, with the newline at its end.
    """
    parts = read_parts(page.read_text()) if page.exists() else {}
    parts[name] = text
    first = parts.pop(FIRST, "")
    marked = [f"<!-- part: {other} -->\n{said}" for other, said in parts.items()]
    page.write_text("\n".join([first, *marked]))


def read_parts(text: str) -> dict[str, str]:
    """The parts of a page by name."""
    first, *rest = _MARK.split(text)
    parts = {FIRST: first, **dict(zip(rest[::2], rest[1::2], strict=True))}
    return {name: said.rstrip("\n") + "\n" for name, said in parts.items()}
