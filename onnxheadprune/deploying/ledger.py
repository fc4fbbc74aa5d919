"""The ledger of a job or a batch: its finished steps, each with digests of everything that it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from onnxheadprune import __version__
from onnxheadprune.errors import HeadPruneError, UsageError
from onnxheadprune.model.documents import read_text, regular_file
from onnxheadprune.model.load import open_structure
from onnxheadprune.model.storage.claims import named_files
from onnxheadprune.model.storage.writing import write_text
from onnxheadprune.model.typed_json import HIDDEN, JsonObject, Key, Name, Seconds, json_text, parsed

MODEL = ".onnx"
Digests: TypeAlias = dict[str, str]
"""SHA-256 of files by their names."""


@dataclass(frozen=True)
class Entry:
    """A started step."""

    key: Name  # digest of everything that it depends on
    files: Digests | None = None  # SHA-256 of its outputs, by name; None as long as it is not done
    seconds: Seconds = 0.0  # its run time

    def is_done(self, key: str, folder: Path, files: Iterable[str]) -> bool:
        """Return whether the step was done with the same dependencies, and its outputs are as they were."""
        try:
            return self.key == key and self.files is not None and outputs_in(folder, files) == self.files
        except HeadPruneError:
            return False


@dataclass
class Ledger(JsonObject):
    """The steps of a folder."""

    path: Annotated[Path, HIDDEN] = Path()
    format: Literal[1] = 1  # of its document
    # names of files beside it that steps have written, or started to write
    owned: set[str] = field(default_factory=set)
    # by the name of the step
    entries: Annotated[dict[Name, Entry], Key("steps")] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """The steps of a file; none where there is no file.

        Raises:
            UsageError: if it holds something else.
        """
        if not path.exists():
            return cls(path)
        try:
            found: Ledger = parsed(cls, read_text(path, "the state of the job"))
            return replace(found, path=path)
        except ValueError as error:
            raise UsageError(
                f"{path} is not the state of a job as this version writes it ({error}); choose another output, or"
                " remove the file to begin anew"
            ) from error

    def note(self, name: str, entry: Entry | None) -> None:
        """Write down how far a step is, or that nothing of it is done."""
        self.entries.pop(name, None)
        if entry is not None:
            self.entries[name] = entry
        write_text(self.path, json_text(self.to_dict(), indent=1) + "\n")


def key_of(*parts: object) -> str:
    """The digest of everything that a step depends on, the versions of what does it included."""
    from onnxheadprune.runtime.session import versions

    known = [*parts, {"onnxheadprune": __version__, **versions()}]
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()


def outputs_in(folder: Path, files: Iterable[str]) -> Digests:
    """SHA-256 of files in a folder, and of all files of folders in it, by their names."""
    found: Digests = {}
    for name in files:
        path = folder / name
        if path.is_dir():
            inner = inside(path, name)
            found |= {item: file_digest(folder / item, "the result") for item in inner}
        else:
            # A model may have weights beside it, in a file that is named by what is in it.
            found |= digests(path) if name.endswith(MODEL) else {name: file_digest(path, "the result")}
    return found


def inside(folder: Path, name: str) -> list[str]:
    """The files of a folder, as paths behind a name for it."""
    found = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return [f"{name}/{path}" for path in found]


def digests(model: Path) -> Digests:
    """SHA-256 of a model's files by their names."""
    loaded = open_structure(model)
    return {path.name: file_digest(path, "the model") for path in (model, *loaded.data_files)}


def digests_of(named: Mapping[str, object]) -> Digests:
    """SHA-256 of files by their names.

    Args:
        named: what users call them ("data.path"), and a file, a folder, or "module:function", for which the file of the
            module stands; what names none of these counts for nothing.
    """
    found: Digests = {}
    for what, value in named.items():
        for reading in named_files(what, value):
            root = reading.path
            files = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
            for path in files:
                name = path.relative_to(root) if path != root else path.name
                found[f"{what}:{name}"] = file_digest(path, what)
    return found


def file_digest(path: Path, what: str) -> str:
    """SHA-256 of a file that somebody named."""
    try:
        with regular_file(path, what).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be read: {error.strerror or error}") from error
