"""Models that are compared: two files, or the files of two folders, one with its like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxheadprune.cli.inputs import read_data, subject_of
from onnxheadprune.settings.inputs import Running

if TYPE_CHECKING:
    from onnxheadprune.model.load import LoadedModel
    from onnxheadprune.runtime.feeds.samples import DataSource


@dataclass(frozen=True)
class Pair:
    """A model and those that are compared with it."""

    file: str | None  # its name in the folders, None where there are no folders
    model: Path | LoadedModel
    others: tuple[Path | LoadedModel, ...]
    is_same: bool = False  # whether they are files of folders and the same to the last byte

    def data_of(self, running: Running) -> DataSource | None:
        """The user's data, if it is for this model; two models alone take what they are given."""
        if self.file is not None and self.misfit(running) is not None:
            return None
        return read_data(self.model, running, in_folder=self.file is not None)

    def misfit(self, running: Running) -> str | None:
        """Return why data is not for this model of a folder, None where it is."""
        from onnxheadprune.data.calibration import calibration_data
        from onnxheadprune.errors import UsageError
        from onnxheadprune.model.load import open_structure
        from onnxheadprune.operators import view_of

        try:
            data = read_data(self.model, running, in_folder=True)
            if data is not None:
                calibration_data(data, view_of(open_structure(self.model)))
        except UsageError as error:
            return str(error)
        return None


def pairs_of(model: Path, others: Sequence[Path], *, follow_links: bool, leaders: bool = False) -> list[Pair]:
    """Return what is compared with what.

    Args:
        leaders: of a folder only the file of each network that heads are chosen on.
    """
    given = [model, *others]
    if not any(map(Path.is_dir, given)):
        subjects = [subject_of(path, follow_links=follow_links) for path in given]
        return [Pair(None, subjects[0], tuple(subjects[1:]))]
    if not all(map(Path.is_dir, given)):
        raise click.UsageError(
            "compare models with models, or folders with folders", click.get_current_context()
        )
    from onnxheadprune.deploying.folders.opening import paired
    from onnxheadprune.reporting.console import err

    found = paired(model, others, follow_links=follow_links, leaders=leaders, note=err().print)
    return [Pair(pair.name, pair.model, pair.others, pair.is_same) for pair in found]


def joined(pairs: Sequence[Pair], documents: Sequence[dict[str, object]]) -> dict[str, object]:
    """One document out of those of each pair: the only one, or a list of files."""
    if pairs[0].file is None:
        return documents[0]
    return {
        "files": [{"file": pair.file, **document} for pair, document in zip(pairs, documents, strict=True)]
    }
