"""Arguments of the API's functions as the workflow takes them: models, data, outputs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from onnxheadprune.model.load import ModelLike, open_structure

if TYPE_CHECKING:
    from onnxheadprune.runtime.feeds.samples import DataSource
    from onnxheadprune.runtime.progress import Progress
    from onnxheadprune.settings.inputs import Running

Output: TypeAlias = str | os.PathLike[str] | None
Shown: TypeAlias = "Progress | bool | None"


def heard(progress: Shown) -> Progress:
    """The progress of a call, which its decorator has opened."""
    assert callable(progress)
    return progress


def subject_of(model: ModelLike, follow_links: bool) -> ModelLike:
    """The model, read through links where they are to be followed."""
    return open_structure(model, follow_links=True) if follow_links else model


def data_of(model: ModelLike, running: Running) -> DataSource | None:
    """The data of a call, None without.

    Raises:
        UsageError: if it cannot be read, or a setting is for data of another kind.
    """
    if running.data is None:
        return None
    from onnxheadprune.data.sources import read_data

    return read_data(model, running)
