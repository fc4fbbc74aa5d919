"""An architecture that a tool of its own exports: the case is known once the file is written."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.zoo.build import Original, reason
from tests.zoo.case import Case
from tests.zoo.check import check
from tests.zoo.export import EXPORTERS
from tests.zoo.quiet import quiet
from tests.zoo.row import Row

Maker = Callable[[Path], tuple[Case, Path]]
"""Exports into a folder; returns the case and the file."""


@dataclass(frozen=True)
class Exported:
    """One architecture.

    Attributes:
        name: of the case.
        family: the tool.
        makers: by the plain variant.
    """

    name: str
    family: str
    makers: Mapping[str, Maker]

    def rows(self, variants: list[str], out: Path) -> Iterator[Row]:
        """Yield a row for each variant, or each plain one; of those that are not made, where one was named."""
        for base, make in self.makers.items():
            own = [variant for variant in variants if variant.split("+")[0] == base] or [base] * (
                not variants
            )
            with tempfile.TemporaryDirectory() as folder:
                try:
                    with quiet():
                        case, path = make(Path(folder))
                    EXPORTERS[base] = lambda _, __, target, source=path: _copy(source, target)
                    original = Original(case, out)
                except Exception as problem:  # an exporter may raise anything; the others go on
                    yield from (
                        Row(self.name, variant, self.family, failed=reason(problem)) for variant in own
                    )
                else:
                    yield from (check(original, variant) for variant in own)


def _copy(source: Path, target: Path) -> None:
    shutil.copy(source, target)
    for data in source.parent.glob(f"{source.name}*data"):
        shutil.copy(data, target.parent / data.name)
