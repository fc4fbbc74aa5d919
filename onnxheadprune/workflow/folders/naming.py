"""What the files with weights beside the models of a folder are called."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath

from onnxheadprune.errors import UsageError
from onnxheadprune.model.storage.names import ITSELF, folded
from onnxheadprune.workflow.folders.export import Export, ModelFile

USUAL = "{}_data"
"""As exporters call it that write for the hub."""


def data_names(export: Export, pattern: str | None) -> dict[str, str]:
    """The name of the data file of each model, should it have one: as asked for, or as the layout has it.

    Args:
        export: the folder.
        pattern: what is asked for, `{}` in the place of the model's name; None keeps what is there.

    Raises:
        UsageError: if two models of one folder, or another file, would have the same name.
    """
    found = {}
    for file in export.models:
        asked = pattern or _usual(file, export)
        found[file.name] = asked.replace(ITSELF, PurePosixPath(file.name).name)
    seen: dict[str, str] = {}
    for file in export.models:
        place = PurePosixPath(file.name).with_name(found[file.name])
        if folded(str(place)) in _taken(export, file):
            raise UsageError(
                f"the data file of {file.name} cannot be called {place.name}: that file is there already"
            )
        other = seen.setdefault(folded(str(place)), file.name)
        if other != file.name and (pattern is not None or file.loaded.data_files):
            raise UsageError(
                f"{other} and {file.name} would both have the data file {place.name}; let the name hold"
                f" {ITSELF}, which stands for that of the model"
            )
    return found


def _taken(export: Export, file: ModelFile) -> set[str]:
    """What the data file of a model must not be called: whatever is in the folder, but for that file itself."""
    weights = {name for other in export.models if other is not file for name in other.weights}
    names = {item.name for item in export.models} | set(export.others) | weights.difference(file.weights)
    folders = {str(above) for name in names for above in PurePosixPath(name).parents}
    return set(map(folded, names | folders))


def _usual(file: ModelFile, export: Export) -> str:
    """The name that the model's data file has, where no other model uses it."""
    users = Counter(path for item in export.models for path in set(item.loaded.data_files))
    for location, source in sorted(file.loaded.sources.items()):
        if source.path in file.loaded.data_files and users[source.path] == 1:
            return PurePosixPath(location).name.replace(PurePosixPath(file.name).name, ITSELF)
    return USUAL
