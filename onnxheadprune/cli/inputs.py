"""The model and the data that a command is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxheadprune.settings.inputs import RANDOM, Running

if TYPE_CHECKING:
    from onnxheadprune.model.load import LoadedModel
    from onnxheadprune.runtime.feeds.samples import DataSource


def read_data(model: Path | LoadedModel, running: Running, *, in_folder: bool = False) -> DataSource | None:
    """The data that the options name, with a warning where it is random; None without.

    Args:
        model: what it is read for.
        running: the data, how it becomes inputs, and where models run.
        in_folder: the model is one of several, of which some may use less of it than others.

    Raises:
        UsageError: if the data cannot be read, or an option is for data of another kind.
    """
    if running.data is None:
        return None
    from onnxheadprune.data import sources

    if running.data == RANDOM:
        from onnxheadprune.reporting.console import err

        err().print(
            "warning: calibrating on random inputs; heads look different on real ones", style="yellow"
        )
    return sources.read_data(model, running, in_folder=in_folder)


@dataclass(frozen=True)
class DataReader:
    """Reads the data that options name, in whatever process a model is pruned."""

    running: Running

    @classmethod
    def rooted(cls, running: Running) -> DataReader:
        """The same from any working directory."""
        data, tokenizer = running.data, running.tokenizer
        if data is not None and data != RANDOM and Path(data).exists():
            data = str(Path(data).absolute())
        return cls(replace(running, data=data, tokenizer=None if tokenizer is None else tokenizer.absolute()))

    def __call__(self, model: Path) -> DataSource | None:
        """The data for one model."""
        return read_data(model, self.running, in_folder=True)

    def files(self, model: Path) -> dict[str, str]:
        """Files read for it: the data, the tokenizer, and what completes them beside the model."""
        from onnxheadprune.data.sources import files_read

        return files_read(model, self.running)


def subject_of(path: Path, *, follow_links: bool) -> Path | LoadedModel:
    """Return what stands for one model: its path, or the model read through links.

    Raises:
        HeadPruneError: if links are to be followed and it cannot be read.
    """
    if not follow_links:
        return path
    from onnxheadprune.model.load import open_structure

    return open_structure(path, follow_links=True)
