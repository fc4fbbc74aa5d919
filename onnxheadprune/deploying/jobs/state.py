"""The result of a job: its verdict, and its finished steps with digests of everything that each depends on."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.deploying.batch_worker import Digests, digests, file_digest
from onnxheadprune.errors import HeadPruneError, UsageError, ValidationFailedError
from onnxheadprune.model.display import Displayed
from onnxheadprune.model.documents import Document, read_text
from onnxheadprune.model.facts import Fact, Facts, Figure, Part, Table, Word
from onnxheadprune.model.facts import State as FactState
from onnxheadprune.model.storage.writing import write_text
from onnxheadprune.model.typed_json import HIDDEN, JsonObject, Key, Name, Seconds, json_text, parsed
from onnxheadprune.validation.headline import Headline, headline_of
from onnxheadprune.validation.summary import Result, files_of, result_of, sized

STATE = "onnxheadprune-job.json"
MODEL = ".onnx"


@dataclass(frozen=True)
class Entry:
    """A started step."""

    key: Name  # digest of everything that it depends on
    files: Digests | None = None  # SHA-256 of its outputs, by name; None as long as it is not done
    seconds: Seconds = 0.0  # its run time


@dataclass
class State(JsonObject):
    """The steps of a job's folder."""

    folder: Annotated[Path, HIDDEN] = Path()
    format: Literal[1] = 1  # of its document
    # names of files in it that jobs have written, or started to write
    owned: set[str] = field(default_factory=set)
    # by the name of the step
    entries: Annotated[dict[Name, Entry], Key("steps")] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> State:
        """The state of a folder; an empty one where no job has been."""
        path = folder / STATE
        if not path.exists():
            return cls(folder)
        try:
            state: State = parsed(cls, read_text(path, "the state of the job"))
            return replace(state, folder=folder)
        except ValueError as error:
            raise UsageError(
                f"{path} is not the state of a job as this version writes it ({error}); choose another output, or"
                " remove the file to begin anew"
            ) from error

    def begin(self, name: str, key: str, files: Iterable[str]) -> None:
        """Record that a step has started, and the files that it owns from now on."""
        self.owned |= set(files)
        self.entries[name] = Entry(key)
        self._write()

    def finish(self, name: str, files: Iterable[str], seconds: float) -> Entry:
        """Record that a step is done."""
        made = self._made(files)
        self.owned |= {item for item in made if "/" not in item}
        self.entries[name] = Entry(self.entries[name].key, made, seconds)
        self._write()
        return self.entries[name]

    def is_done(self, name: str, key: str, files: Iterable[str]) -> bool:
        """Return whether a step was done with the same dependencies as now, and its outputs still exist."""
        entry = self.entries.get(name)
        if entry is None or entry.key != key or entry.files is None:
            return False
        try:
            return self._made(files) == entry.files
        except HeadPruneError:
            return False

    def is_begun(self, name: str, key: str) -> bool:
        """Return whether a step was interrupted with the same dependencies as now."""
        entry = self.entries.get(name)
        return entry is not None and entry.key == key and entry.files is None

    def clear(self, name: str, files: Iterable[str]) -> None:
        """Remove folders that a step has written, since they are rebuilt completely; files are replaced one by one."""
        entry = self.entries.get(name)
        for path in (self.folder / item for item in files):
            if not path.is_dir() or path.is_symlink():
                continue
            known = None if entry is None else entry.files
            strange = [one for one in _inside(path, path.name) if known is not None and one not in known]
            if strange:
                raise UsageError(
                    f"{self.folder / strange[0]} is no file of the job, and its folder is made anew; move it away first"
                )
            try:
                shutil.rmtree(path)
            except OSError as error:
                raise UsageError(f"{path} cannot be removed: {error.strerror or error}") from error

    def _made(self, files: Iterable[str]) -> Digests:
        found: Digests = {}
        for name in files:
            path = self.folder / name
            if path.is_dir():
                inside = _inside(path, name)
                found |= {inner: file_digest(self.folder / inner, "the result") for inner in inside}
                continue
            # A model may have weights beside it, in a file that is named by what is in it.
            found |= digests(str(path)) if name.endswith(MODEL) else {name: file_digest(path, "the result")}
        return found

    def _write(self) -> None:
        write_text(self.folder / STATE, json_text(self.to_dict(), indent=1) + "\n")


def _inside(folder: Path, name: str) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return [f"{name}/{path}" for path in found]


BEFORE_AFTER = ("before", "after")
Status: TypeAlias = Literal["done", "unchanged", "failed", "not reached"]
STATES: Mapping[Status, FactState] = {
    "done": "good",
    "unchanged": "",
    "failed": "bad",
    "not reached": "doubtful",
}


@dataclass(frozen=True)
class StepOutcome(JsonObject):
    """The outcome of a step."""

    name: str
    # "done" now; "unchanged" since an earlier run did it; "failed"; or "not reached", after one that failed
    status: Status
    seconds: float = 0.0  # its run time when it was done
    files: Digests | None = None  # SHA-256 of its outputs, by name


@dataclass(frozen=True)
class JobResult(Displayed):
    """The verdict on a job."""

    name: str
    job: str
    folder: str
    model: str | None  # the final model, None without
    steps: tuple[StepOutcome, ...]  # in their order
    gates: tuple[Gate, ...]  # the limits; none where a step failed
    asked: Mapping[str, float]  # limits by name, as given in the job
    error: HeadPruneError | None  # the error of a failed step, None without
    results: Mapping[str, Document]  # of the finished steps, by name
    settings: Mapping[str, object]  # all keys of the job, as it was run
    # sizes of the original and the final model on the disk, None without a final model
    file_bytes: tuple[int, int] | None = None

    @property
    def accepted(self) -> bool:
        """True if every step is done and every limit is kept."""
        return self.error is None and all(gate.passed for gate in self.gates)

    @property
    def cut(self) -> Document | None:
        """The result of the last step that cut or trained, None if none is done."""
        return self.results.get("recover") or self.results.get("prune")

    @property
    def limits(self) -> tuple[Gate, ...]:
        """The limits of the job, and those of the selection of its cut."""
        chosen = [] if self.cut is None else files_of(self.cut)
        return (*self.gates, *(Gate(**gate) for item in chosen for gate in item.get("gates", ())))

    @property
    def headline(self) -> Headline:
        """The verdicts: exact, good enough, accepted."""
        error, results = self.error, self.results
        cut = self.cut
        found: list[Document | None] = []
        if isinstance(error, ValidationFailedError) and error.validation is not None:
            found = [error.validation.to_dict()]
        elif "validate" in results:
            found = list(files_of(results["validate"]))
        elif cut is not None:
            found = [item["validation"] for item in files_of(cut)]
        failed = None if error is None else f"the step {self.failed} failed: {error}"
        return headline_of(
            found, self.limits, failed=failed, data="validate.data", quantized="quantize" in results
        )

    def facts(self) -> Facts:
        """The result of the job and its steps."""
        told = self._result().facts()
        steps = tuple(
            (step.name, Word(step.status, STATES[step.status]), f"{step.seconds:.1f}" if step.seconds else "")
            for step in self.steps
        )
        columns = ("step", "status", "seconds")
        more: list[Part] = [Table(columns, steps, columns[2:])]
        if self.model is not None:
            more.append(Fact("model", self.model))
        return replace(told, parts=(*told.parts, *more))

    def _result(self) -> Result:
        cut, results = self.cut, self.results
        if cut is None:
            return Result(self.name, (), self.headline, (), gates=self.limits)
        found = result_of(cut, self.headline, self.name)
        validations = list(files_of(results["validate"])) if "validate" in results else found.validations
        return replace(
            found,
            validations=validations,
            file_bytes=self.file_bytes or found.file_bytes,
            quantized="quantize" in results,
            gates=self.limits,
            figures=tuple(self._figures()),
            data="validate.data",
        )

    def _figures(self) -> Iterator[Figure]:
        """The weights after quantization, and the speed."""
        stored = self.results.get("quantize")
        if stored is not None:
            name = f"weights in {stored['quantization']['to']}"
            yield sized(name, stored["before"]["bytes"], stored["after"]["bytes"])
        speedups = [item.get("guaranteed", {}).get("1") for item in files_of(self.results.get("bench", {}))]
        if speedups and all(speedup is not None for speedup in speedups):
            yield Figure("speed", f"{min(speedups):.2f}x", note="at least, at every size")

    @property
    def failed(self) -> str | None:
        """The step that failed, None if none did."""
        return next((step.name for step in self.steps if step.status == "failed"), None)

    @property
    def exit_code(self) -> int:
        """0 if accepted, 1 if a limit is broken, else that of the failed step's error."""
        if self.error is not None:
            return self.error.exit_code
        return 0 if self.accepted else ValidationFailedError.exit_code

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; the results of the steps are files of their own."""
        found: dict[str, Any] = {
            "name": self.name,
            "job": self.job,
            "folder": self.folder,
            "model": self.model,
            "file_bytes": None
            if self.file_bytes is None
            else dict(zip(BEFORE_AFTER, self.file_bytes, strict=True)),
            "headline": self.headline.to_dict(),
            "accepted": self.accepted,
            "exit_code": self.exit_code,
            "error": None if self.error is None else str(self.error),
            "steps": [step.to_dict() for step in self.steps],
            "gates": [gate.to_dict() for gate in self.gates],
            "settings": dict(self.settings),
        }
        if isinstance(self.error, ValidationFailedError) and self.error.validation is not None:
            found["validation"] = self.error.validation.to_dict()
        return found
