"""Everything of a folder that no cut changes: copied as it is, but for the fields of a configuration that follow."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from onnxheadprune.model.storage.assembly import Assembly
from onnxheadprune.workflow.clients.contract import ConfigChange
from onnxheadprune.workflow.folders.configs import patched
from onnxheadprune.workflow.folders.export import Export

_UNPRUNED = (
    "model*.safetensors",
    "pytorch_model*.bin",
    "tf_model*.h5",
    "flax_model*.msgpack",
    "openvino_model*.xml",
    "rust_model.ot",
    "*.ort",
    "*.gguf",
)
"""Files that hold the same model in another form."""


def unchanged(export: Export, cut: Collection[str], changes: Sequence[ConfigChange]) -> tuple[str, ...]:
    """Files that are copied as they are: models that lose nothing with their weights, and all that is no model.

    Args:
        export: the folder.
        cut: names of the models that are cut.
        changes: fields that follow.
    """
    kept = [name for file in export.models if file.name not in cut for name in (file.name, *file.weights)]
    rewritten = {change.file for change in changes}
    return tuple(sorted({*kept, *(name for name in export.others if name not in rewritten)}))


def complete(assembly: Assembly, root: Path, copied: Sequence[str], changes: Sequence[ConfigChange]) -> None:
    """Puts the rest into the folder.

    Raises:
        UsageError: if a file cannot be read or written.
    """
    for name in copied:
        assembly.copy(root / name, name)
    for name, content in patched(root, changes).items():
        assembly.write(name, content)


def other_forms(copied: Sequence[str]) -> Iterator[str]:
    """A sentence if the folder holds the model in other forms, which no cut reaches."""
    found = [
        name
        for name in copied
        if len(PurePosixPath(name).parts) == 1 or name.startswith("openvino/")
        if any(fnmatch(PurePosixPath(name).name, pattern) for pattern in _UNPRUNED)
    ]
    if found:
        more = "" if len(found) == 1 else f" and {len(found) - 1} more"
        yield (
            f"{found[0]}{more} holds the model before the cut, and is copied as it is: make sure that nothing loads it"
        )
