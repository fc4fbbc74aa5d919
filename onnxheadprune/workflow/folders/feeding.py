"""Which networks of an export the user's data is for: a folder has one kind of data, and its networks other inputs."""

from __future__ import annotations

from onnxheadprune.errors import UsageError
from onnxheadprune.selection.activations.data import calibration_data
from onnxheadprune.workflow.folders.asked import Data, FolderRequest
from onnxheadprune.workflow.folders.export import ModelFile
from onnxheadprune.workflow.folders.matching import Match


def _data_of(file: ModelFile, asked: FolderRequest) -> Data:
    """The data for one file.

    Raises:
        UsageError: if it does not fit, or cannot be read.
    """
    data = asked.request.run.data if asked.read is None else asked.read(file.loaded)
    if data is not None:
        calibration_data(data, file.view)
    return data


def data_of_leaders(match: Match, asked: FolderRequest) -> tuple[dict[str, Data], dict[str, str]]:
    """The data for the leader of each network that it fits, and why it does not fit the others.

    Raises:
        UsageError: if it fits none.
    """
    found: dict[str, Data] = {}
    unfit: dict[str, str] = {}
    for network in match.networks:
        try:
            found[network.leader.name] = _data_of(network.leader, asked)
        except UsageError as error:
            if len(match.networks) == 1:
                raise
            unfit[network.leader.name] = str(error)
    if not found:
        told = "; ".join(f"{name}: {reason}" for name, reason in unfit.items())
        raise UsageError(f"the data fits none of the models: {told}")
    return found, unfit


def data_if_it_fits(file: ModelFile, asked: FolderRequest) -> Data:
    """The data for a file that needs none: a proof goes on made-up inputs, too."""
    try:
        return _data_of(file, asked)
    except UsageError:
        return None
