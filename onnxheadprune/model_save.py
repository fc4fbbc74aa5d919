"""Writing models: all or nothing, in one file or with the weights beside it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from onnx import ModelProto

from onnxheadprune.errors import UsageError
from onnxheadprune.model_io import (
    INLINE_LIMIT,
    MAPPED_FROM,
    LoadedModel,
    parse_structure,
    stored_bytes,
    structure_of,
)
from onnxheadprune.storage.layout import ExternalData, lay_out
from onnxheadprune.storage.sources import source_at
from onnxheadprune.storage.stage import Stage

_POLICIES: dict[bool | None, ExternalData] = {None: "auto", True: "always", False: "never"}


def check_target(output: str | os.PathLike[str], *inputs: LoadedModel, in_place: bool = False) -> Path:
    """The output path, if something can be written there.

    Args:
        output: where to write.
        inputs: models that must not be overwritten.
        in_place: the output may be the model file of an input, of which a backup is kept.

    Raises:
        UsageError: if it is part of an input, or its folder does not exist or cannot be written.
    """
    target = Path(output)
    for source in inputs:
        if source.path is not None and not in_place and _is_same_file(target, source.path):
            raise UsageError(f"the output {target} is the input itself; choose another path")
        for data_file in source.data_files:
            if _is_same_file(target, data_file):
                raise UsageError(f"the output {target} would overwrite the input's weights {data_file}")
    folder = target.parent
    if not folder.is_dir():
        raise UsageError(f"the folder {folder} does not exist")
    if target.is_dir():
        raise UsageError(f"the output {target} is a folder; name a file in it")
    if target.exists() and not target.is_file():
        raise UsageError(f"the output {target} is not a regular file")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"the folder {folder} cannot be written")
    return target


def check_backup(backup: str | os.PathLike[str], target: Path | None, source: LoadedModel) -> Path | None:
    """The path under which a model that is replaced is kept.

    Raises:
        UsageError: if it is taken, on another file system, or the backup could not find its weights there.
    """
    kept = Path(backup)
    if target is None or source.path is None or not _is_same_file(target, source.path):
        raise UsageError("a backup is for pruning in place: the output is the model itself")
    if os.path.lexists(kept):
        raise UsageError(f"the backup {kept} exists already; it is never overwritten")
    if not kept.parent.is_dir():
        raise UsageError(f"the folder {kept.parent} does not exist")
    if target.is_symlink():
        raise UsageError(f"{target} is a link; prune the file it leads to")
    if source.data_files and not kept.parent.samefile(target.parent):
        raise UsageError(
            f"{target} has weights in other files, which its backup needs beside it; name a backup in the same folder"
        )
    if kept.parent.stat().st_dev != target.stat().st_dev:
        raise UsageError(f"the backup {kept} is on another file system than {target}; name one that is not")
    return kept


def _is_same_file(left: Path, right: Path) -> bool:
    return left.exists() and right.exists() and left.samefile(right)


def save_model(
    model: ModelProto | LoadedModel, output: str | os.PathLike[str], *, external: bool | None = None
) -> None:
    """Writes a model atomically: what is not complete has no name.

    Args:
        model: the model; of a structure, weights are copied from the files it refers to.
        output: where to.
        external: put the weights into a file beside the output; False keeps them inside, None leaves each
            where it is, and decides by size what comes from memory (protobuf takes at most 2 GiB).

    Raises:
        UsageError: if it cannot be written; nothing is left behind and an older file stays as it was.
        ModelError: if weights cannot be read.
    """
    loaded = model if isinstance(model, LoadedModel) else LoadedModel(model, "the model")
    target = check_target(output)
    with stage_model(loaded, target, _POLICIES[external]) as stage:
        commit(stage)


def stage_model(loaded: LoadedModel, target: Path, external: ExternalData) -> Stage:
    """Writes the weights of a model into files that have no name yet.

    Raises:
        UsageError: if they cannot be written, or do not fit into one file.
        ModelError: if weights cannot be read.
    """
    location = f"{target.name}.data"
    layout, inside = lay_out(loaded.proto, loaded.inline, location, external, INLINE_LIMIT)
    if inside > INLINE_LIMIT:
        raise UsageError(
            f"{target} cannot hold its weights of {inside / 1e9:.1f} GB, since a protobuf message"
            " ends at 2 GiB; let them go into a file beside it (--external-data auto)"
        )
    with _sentences(target):
        return Stage(layout, loaded.sources, target, location)


def staged_model(stage: Stage) -> LoadedModel:
    """What is staged, read back from the files.

    Raises:
        UsageError: if the model file cannot be written.
    """
    with _sentences(stage.target):
        stage.write()
        if stored_bytes(stage.layout.model) > MAPPED_FROM:
            stage.show()
    model, own, _ = parse_structure(stage.draft.path)
    known = {own: source_at(stage.draft.path)}
    if stage.data is not None:
        known[stage.location] = source_at(stage.data.path)
    return structure_of(model, "the pruned model", stage.draft.path, known, stage.target.parent)


def commit(stage: Stage, metadata: tuple[str, str] | None = None, backup: Path | None = None) -> None:
    """Gives the staged files their names, all or none.

    Args:
        stage: what is written.
        metadata: one more entry of the model's metadata.
        backup: a new name for the model that is replaced.

    Raises:
        UsageError: if that is not possible; nothing has changed then.
    """
    with _sentences(stage.target):
        stage.commit(metadata, backup)


@contextlib.contextmanager
def _sentences(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = "no space is left" if error.errno == errno.ENOSPC else str(error.strerror or error)
        raise UsageError(f"{target} cannot be written: {reason}") from error
