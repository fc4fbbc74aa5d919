"""Rows of a measurement in a file, whose first line says when they were measured and with which versions."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

Row = TypeVar("Row")


class Written(Protocol):
    """A row that says itself in one line."""

    def to_json(self) -> str:
        """The line."""


def keep(path: Path, header: str, rows: Iterable[Written]) -> None:
    """Writes what `kept` reads."""
    lines = [json.dumps({"measured": header}), *(row.to_json() for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def kept(path: Path, read: Callable[[str], Row]) -> tuple[str, list[Row]]:
    """The header and the rows of the last measurement.

    Args:
        path: the file.
        read: makes a row of a line.
    """
    first, *lines = path.read_text().splitlines()
    return json.loads(first)["measured"], [read(line) for line in lines]


def measured_today(versions: Mapping[str, str]) -> str:
    """The header of a measurement that was made now, by the versions of the packages that shape it."""
    tools = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"Measured on {datetime.date.today().isoformat()} with {tools}."
