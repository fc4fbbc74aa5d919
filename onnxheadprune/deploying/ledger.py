"""The ledger of a job or a batch: its finished steps, each with digests of everything that it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from onnxheadprune import __version__
from onnxheadprune.errors import HeadPruneError, UsageError
from onnxheadprune.model.documents import read_text, regular_file
from onnxheadprune.model.load import open_structure
from onnxheadprune.model.storage.claims import named_files
from onnxheadprune.model.storage.writing import write_text
from onnxheadprune.model.typed_json import HIDDEN, JsonObject, Key, Name, Seconds, json_text, parsed
from onnxheadprune.settings.calls import named_by
from onnxheadprune.settings.inputs import Running

MODEL = ".onnx"
Digests: TypeAlias = dict[str, str]
"""SHA-256 of files by their names."""


@dataclass(frozen=True)
class Entry:
    """A started step."""

    key: Name  # digest of everything that it depends on
    files: Digests | None = None  # SHA-256 of its outputs, by name; None as long as it is not done
    seconds: Seconds = 0.0  # its run time


@dataclass(frozen=True)
class Step:
    """A step: all that it depends on, and what it makes in the folder of the ledger."""

    name: str
    settings: Mapping[str, object]  # of the call that it makes, as its user gave them
    # the model, None where an earlier step makes it; and the files and functions that settings name, by setting
    model: Path | None
    reads: Mapping[str, str]
    makes: tuple[str, ...]  # names of files and folders
    behind: tuple[str, ...] = ()  # the steps whose results it takes

    def key(self, *behind: str) -> str:
        """The digest of everything that it depends on, with the versions of this tool and of ONNX Runtime.

        Args:
            behind: the keys of the steps whose results it takes.
        """
        from onnxheadprune.runtime.session import versions

        model = {} if self.model is None else digests(self.model, "the model", is_model=True)
        by = {"onnxheadprune": __version__, **versions()}
        known = [self.settings, model, digests_of(self.reads), behind, by]
        return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()

    def is_done(self, earlier: Entry | None, key: str, folder: Path) -> bool:
        """Return whether it was done with the same dependencies, and its outputs are as they were."""
        if earlier is None or earlier.files is None or earlier.key != key:
            return False
        try:
            return self.outputs_in(folder) == earlier.files
        except HeadPruneError:
            return False

    def outputs_in(self, folder: Path) -> Digests:
        """SHA-256 of what it makes, by names of files in the folder."""
        made = (digests(folder / name, "the result", is_model=name.endswith(MODEL)) for name in self.makes)
        return {name: digest for found in made for name, digest in found.items()}


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


def reads_of(model: Path, call: Any, called: Callable[[str], str] = str) -> dict[str, str]:
    """Files and "module:function" names that the settings of a call refer to, by setting; the model is left out."""
    found = {called(name): str(value) for name, value in named_by(call).items()}
    if not isinstance(call, Running):
        return found
    from onnxheadprune.data.sources import files_read

    return found | files_read(model, call, called("data"), called("tokenizer"))


def digests_of(named: Mapping[str, object]) -> Digests:
    """SHA-256 of files by their names.

    Args:
        named: what users call them ("data.path"), and a file, a folder, or "module:function", for which the file of the
            module stands; what names none of these counts for nothing.
    """
    return {
        f"{what}:{name}": digest
        for what, value in named.items()
        for reading in named_files(what, value)
        for name, digest in digests(reading.path, what).items()
    }


def digests(path: Path, what: str, *, is_model: bool = False) -> Digests:
    """SHA-256 of a file, of a model and its weights, or of all files of a folder, by their names beside it."""
    if path.is_dir():
        return {f"{path.name}/{name}": file_digest(path / name, what) for name in inside(path)}
    files = (path, *open_structure(path).data_files) if is_model else (path,)
    return {file.name: file_digest(file, what) for file in files}


def inside(folder: Path) -> list[str]:
    """The files of a folder, by their paths in it."""
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]


def file_digest(path: Path, what: str) -> str:
    """SHA-256 of a file that somebody named."""
    try:
        with regular_file(path, what).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be read: {error.strerror or error}") from error
