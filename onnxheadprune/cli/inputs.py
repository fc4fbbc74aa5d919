"""The model and the data that a command is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnxheadprune.settings.inputs import RANDOM, Running

if TYPE_CHECKING:
    from onnxheadprune.model.load import LoadedModel
    from onnxheadprune.runtime.feeds.samples import DataSource


def read_data(model: Path | LoadedModel, running: Running, *, in_folder: bool = False) -> DataSource | None:
    """The data that the options name, with a warning where it is random; None without.

    Args:
        in_folder: the model is one of several, of which some may use less of it than others.
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


def subject_of(path: Path, *, follow_links: bool) -> Path | LoadedModel:
    """Return the path of a model, or with `follow_links` the loaded model."""
    if not follow_links:
        return path
    from onnxheadprune.model.load import open_structure

    return open_structure(path, follow_links=True)
