"""Rows of many folders, in several processes; what was checked before is read from a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path

from tests.zoo.check import check
from tests.zoo.folder import Folder
from tests.zoo.row import Row


def collect(folders: Sequence[Path], known: Path | None, jobs: int) -> list[Row]:
    """Checks folders and returns their rows in order.

    Args:
        folders: those without a built model are left out.
        known: a file of rows, one JSON object a line; read first, and each new row added.
        jobs: number of processes.
    """
    built = [folder for folder in folders if Folder.is_built(folder)]
    rows = {f"{row.case}.{row.variant}": row for row in _read(known)}
    missing = [folder for folder in built if folder.name not in rows]
    for done, row in enumerate(_checked(missing, jobs), start=1):
        rows[f"{row.case}.{row.variant}"] = row
        if known is not None:
            with known.open("a") as file:
                file.write(f"{row.to_json()}\n")
        if row.outcome.is_failure or done % 250 == 0:
            sys.stderr.write(f"[{done}/{len(missing)}] {row}\n")
    return [rows[folder.name] for folder in built]


def _read(known: Path | None) -> Iterator[Row]:
    if known is not None and known.exists():
        yield from (Row.from_json(line) for line in known.read_text().splitlines())


def _checked(folders: Sequence[Path], jobs: int) -> Iterable[Row]:
    if jobs == 1:
        return map(check, folders)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Forked processes would share ONNX Runtime's threads.
    return get_context("spawn").Pool(jobs).imap_unordered(check, folders, chunksize=4)
