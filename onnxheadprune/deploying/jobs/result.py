"""The result of a job: its verdict, its steps and its limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeAlias

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.deploying.jobs.reading import as_key
from onnxheadprune.deploying.ledger import Digests
from onnxheadprune.display.displayed import Displayed
from onnxheadprune.display.facts import Fact, Facts, Figure, Part, State, Table, Word
from onnxheadprune.errors import HeadPruneError, ValidationFailedError
from onnxheadprune.model.documents import Document
from onnxheadprune.model.typed_json import HIDDEN, JsonObject, Spelled, written
from onnxheadprune.settings.words import spelled_by
from onnxheadprune.validation.headline import Headline, headline_of
from onnxheadprune.validation.summary import Result, files_of, result_of, sized
from onnxheadprune.workflow.result import BEFORE_AFTER

Status: TypeAlias = Literal["done", "unchanged", "failed", "not reached"]
STATES: Mapping[Status, State] = {
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


def _said(error: HeadPruneError | None) -> str | None:
    return None if error is None else str(error)


@dataclass(frozen=True)
class JobResult(Displayed):
    """The verdict on a job; the results of its steps are files of their own."""

    name: str
    job: str
    folder: str
    model: str | None  # the final model, None without
    steps: tuple[StepOutcome, ...]  # in their order
    gates: tuple[Gate, ...]  # the limits; none where a step failed
    asked: Annotated[Mapping[str, float], HIDDEN]  # limits by name, as given in the job
    error: Annotated[HeadPruneError | None, Spelled(Any, _said)]  # the error of a failed step, None without
    results: Annotated[Mapping[str, Document], HIDDEN]  # of the finished steps, by name
    settings: Mapping[str, object]  # all keys of the job, as it was run
    # sizes of the original and the final model on the disk, None without a final model
    file_bytes: Annotated[tuple[int, int] | None, BEFORE_AFTER] = None

    @property
    @written()
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
    @written()
    def headline(self) -> Headline:
        """The verdicts: exact, good enough, accepted."""
        error, results = self.error, self.results
        cut = self.cut
        found: list[Document | None] = []
        if self._rejection is not None:
            found = [self._rejection]
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
    @written("validation")
    def _rejection(self) -> Document | None:
        """The verdict that a step failed by, None without."""
        found = self.error.validation if isinstance(self.error, ValidationFailedError) else None
        return None if found is None else spelled_by(as_key, found.to_dict())

    @property
    def failed(self) -> str | None:
        """The step that failed, None if none did."""
        return next((step.name for step in self.steps if step.status == "failed"), None)

    @property
    @written()
    def exit_code(self) -> int:
        """0 if accepted, 1 if a limit is broken, else that of the failed step's error."""
        if self.error is not None:
            return self.error.exit_code
        return 0 if self.accepted else ValidationFailedError.exit_code
