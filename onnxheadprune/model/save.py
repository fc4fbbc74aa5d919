"""Writing models: all or nothing, in one file or with the weights beside it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from onnxheadprune.errors import UsageError
from onnxheadprune.model.load import (
    INLINE_LIMIT,
    LoadedModel,
    parse_structure,
    structure_of,
)
from onnxheadprune.model.storage.claims import Backup, Making, Reading, check_makings, identity
from onnxheadprune.model.storage.layout import ExternalData, lay_out
from onnxheadprune.model.storage.stage import Stage
from onnxheadprune.model.storage.writing import named_data, readable_name, require_room, sentences
from onnxheadprune.settings.writing import Storing


@dataclass(frozen=True)
class Outputs:
    """The files that a call writes for a model; claimed once, before its work."""

    model: Path | None  # the model; None writes none
    spelled: tuple[str, str] = ("", "")  # the paths of the model and the backup as written by the user
    backup: Path | None = None  # the original, which the model replaces; None replaces no input
    data: Path | None = None  # the file with weights that has a name of its own
    beside: tuple[Making, ...] = ()  # other files

    @classmethod
    def of(
        cls,
        output: str | os.PathLike[str] | None,
        backup: str | os.PathLike[str] | None = None,
        data_name: str | None = None,
        beside: tuple[Making, ...] = (),
    ) -> Outputs:
        """The outputs by the paths that a request names."""
        if output is None:
            return cls(None, beside=beside)
        target, kept = Path(output), None if backup is None else Path(backup)
        data = None if data_name is None else target.with_name(named_data(target, data_name))
        return cls(target, (os.fspath(output), os.fspath(backup or "")), kept, data=data, beside=beside)

    @property
    def kept(self) -> Backup | None:
        """The model that is replaced, as it is kept; None where none is."""
        return None if self.model is None or self.backup is None else Backup.of(self.model, self.backup)

    def makings(self) -> Iterator[Making]:
        """Each file, by its role."""
        if self.model is not None:
            replaces = "" if self.backup is None else "the model"
            yield Making("the output", self.model, self.spelled[0], "model", replaces=replaces)
            if self.backup is not None:
                yield Making("the backup", self.backup, self.spelled[1], "new", copy_of=self.model)
            if self.data is not None:
                yield Making("the data file", self.data, kind="data")
        yield from self.beside

    def claim(self, *inputs: LoadedModel, others: Iterable[Reading] = ()) -> Outputs:
        """Check that all of them can be written, and return them.

        Args:
            inputs: models that must not be overwritten; the first one is the original.
        """
        check_makings(
            list(self.makings()),
            lambda: [*(item for source in inputs for item in _readings(source)), *others],
        )
        if self.backup is not None:
            self._require_backup(self.backup, inputs[0])
        return self

    def _require_backup(self, backup: Path, source: LoadedModel) -> None:
        target = self.model
        if target is None or source.path is None or identity(target) != identity(source.path):
            raise UsageError("a backup is for pruning in place: the output is the model itself")
        if source.data_files and not backup.parent.samefile(target.parent):
            raise UsageError(
                f"{target} has weights in other files, which its backup needs beside it; name a backup in the same"
                " folder"
            )
        if backup.parent.stat().st_dev != target.stat().st_dev:
            raise UsageError(
                f"the backup {backup} is on another file system than {target}; name one that is not"
            )


def _readings(source: LoadedModel) -> Iterator[Reading]:
    if source.path is not None:
        yield Reading("the model", source.path)
    files = (item.path for item in source.sources.values())
    for path in dict.fromkeys((*source.data_files, *files)):
        if path != source.path:
            yield Reading("the model's weights", path)


def save_model(
    model: ModelProto | LoadedModel,
    output: str | os.PathLike[str],
    *,
    external: ExternalData = "auto",
) -> None:
    """Write a model atomically: incomplete files have no name.

    Args:
        model: the model; of a structure, weights are copied from the files it refers to.
        external: "always" puts the weights into an external data file, "never" keeps them inside, "auto" keeps each
            where it is, and decides by size for those in memory (protobuf is limited to 2 GiB).
    """
    loaded = LoadedModel.of(model, "the model")
    target = Path(output)
    Outputs.of(output).claim()
    with stage_model(loaded, target, Storing(external_data=external)) as stage:
        stage.seal()
        stage.commit()


def stage_model(loaded: LoadedModel, target: Path, storing: Storing, named: str | None = None) -> Stage:
    """Write the weights of a model into files that have no name yet.

    Args:
        named: the name of the external data file; None derives one from the content.
    """
    location = f"{readable_name(target)}.data"
    layout, inside = lay_out(loaded.proto, loaded.inline, location, storing.external_data, INLINE_LIMIT)
    if inside > INLINE_LIMIT:
        raise UsageError(
            f"{target} cannot hold its weights of {inside / 1e9:.1f} GB, since a protobuf message"
            f" ends at 2 GiB; let them go into a file beside it (`external_data=auto`)"
        )
    with sentences(target):
        require_room(target.parent, inside + layout.data_size)
        return Stage(layout, loaded.sources, target, location, named)


def staged_model(stage: Stage) -> LoadedModel:
    """Return the staged model, read back from the files."""
    with sentences(stage.target):
        stage.write()
    parsed = parse_structure(stage.model)
    return structure_of(parsed.model, "the pruned model", stage.model, {parsed.own: parsed.source})
