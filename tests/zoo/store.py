"""Folders of the zoo, built when first asked for, and their rows; shared by the workers of one test run."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path

from torch import nn

from tests.zoo.build import Workshop, settle_torch
from tests.zoo.case import Case
from tests.zoo.check import check
from tests.zoo.families import all_cases
from tests.zoo.folder import Folder
from tests.zoo.originals import references
from tests.zoo.row import Row


class NotBuiltError(Exception):
    """The exporter, or a tool before us, gave up."""


class Store:
    """A zoo that grows as the tests need it.

    Attributes:
        zoo: where the folders lie; they may outlive the run.
        rows: where the rows of this run lie.
    """

    def __init__(self, zoo: Path, rows: Path) -> None:
        self.zoo, self.rows = zoo, rows
        for folder in (zoo, rows):
            folder.mkdir(parents=True, exist_ok=True)
        settle_torch()
        self._workshop = lru_cache(maxsize=2)(lambda name: Workshop(self.cases[name], zoo))

    @cached_property
    def cases(self) -> dict[str, Case]:
        """All cases by name."""
        return {case.name: case for case in all_cases()}

    def folder(self, case: str, variant: str) -> Path:
        """A built folder.

        Raises:
            NotBuiltError: if it cannot be built.
        """
        path = self.zoo / f"{case}.{variant}"
        with self._alone_with(case):
            workshop: Workshop = self._workshop(case)
            workshop.build(variant)
        if not Folder.is_built(path):
            raise NotBuiltError(json.loads((path / "case.json").read_text())["failed"])
        return path

    def module(self, case: str) -> nn.Module:
        """The module of a case."""
        return self._workshop(case).model()

    def row(self, case: str, variant: str) -> Row:
        """The row of a folder, checked once a run.

        Raises:
            NotBuiltError: if the folder cannot be built.
        """
        path = self.folder(case, variant)
        known = self.rows / f"{path.name}.json"
        with self._alone_with(path.name):
            if not known.exists():
                known.write_text(check(path, references).to_json())
            return Row.from_json(known.read_text())

    @contextmanager
    def _alone_with(self, name: str) -> Iterator[None]:
        """Keeps other processes of this run from building or checking the same thing."""
        with (self.rows / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
