"""Rows of many folders; what was checked before is read from a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.zoo.folder import Folder
from tests.zoo.units.check import check
from tests.zoo.units.originals import references
from tests.zoo.units.row import UnitRow


def collect(folders: Sequence[Path], known: Path | None) -> list[UnitRow]:
    """Checks folders and returns their rows in order.

    Args:
        folders: those without a built model are left out.
        known: a file of rows, one JSON object a line; read first, and each new row added.
    """
    built = [folder for folder in folders if Folder.is_built(folder)]
    rows = {row.name: row for row in _read(known)}
    for folder in built:
        if folder.name in rows:
            continue
        row = rows[folder.name] = check(folder, references)
        if known is not None:
            with known.open("a") as file:
                file.write(f"{row.to_json()}\n")
        if row.failures:
            sys.stderr.write(f"{row}\n")
    return [rows[folder.name] for folder in built]


def _read(known: Path | None) -> Iterator[UnitRow]:
    if known is not None and known.exists():
        yield from (UnitRow.from_json(line) for line in known.read_text().splitlines())
