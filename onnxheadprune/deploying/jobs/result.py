"""Results of a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.deploying.batch_worker import Digests
from onnxheadprune.deploying.jobs.asked import Document
from onnxheadprune.errors import HeadPruneError, ValidationFailedError
from onnxheadprune.validation.headline import Headline, headline_of

BEFORE_AFTER = ("before", "after")
Status: TypeAlias = Literal["done", "unchanged", "failed", "not reached"]


@dataclass(frozen=True)
class StepOutcome:
    """The outcome of a step.

    Attributes:
        status: "done" now; "unchanged" since an earlier run did it; "failed"; or "not reached", behind one that failed.
        seconds: how long it took when it was done.
        files: SHA-256 of what it made, by name.
    """

    name: str
    status: Status
    seconds: float = 0.0
    files: Digests | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)


def of_each(result: Document) -> list[Document]:
    """The results of each file of a folder; of a single model its own."""
    files: list[Document] = result.get("files", [result])
    return files


@dataclass(frozen=True)
class JobResult:
    """The verdict on a job.

    Attributes:
        model: the model that came out, None if none did.
        steps: in their order.
        gates: the limits; none where a step failed.
        asked: limits by name, as the job sets them.
        error: what a step failed with, None if none did.
        results: of the steps by name, those that are done.
        settings: all keys of the job, as it was run.
        file_bytes: what the original and the model that came out take on the disk, None if none came out.
    """

    name: str
    job: str
    folder: str
    model: str | None
    steps: tuple[StepOutcome, ...]
    gates: tuple[Gate, ...]
    asked: Mapping[str, float]
    error: HeadPruneError | None
    results: Mapping[str, Document]
    settings: Mapping[str, object]
    file_bytes: tuple[int, int] | None = None

    @property
    def accepted(self) -> bool:
        """True if every step is done and every limit kept."""
        return self.error is None and all(gate.passed for gate in self.gates)

    @property
    def cut(self) -> Document | None:
        """The result of the last step that cut or trained, None if none is done."""
        return self.results.get("recover") or self.results.get("prune")

    @property
    def limits(self) -> tuple[Gate, ...]:
        """The limits of the job, and those that the choice of its cut had to keep."""
        chosen = [] if self.cut is None else of_each(self.cut)
        return (*self.gates, *(Gate(**gate) for item in chosen for gate in item.get("gates", ())))

    @property
    def headline(self) -> Headline:
        """Whether the model is exact, good enough and accepted."""
        error, results = self.error, self.results
        cut = self.cut
        found: list[Document | None] = []
        if isinstance(error, ValidationFailedError) and error.validation is not None:
            found = [error.validation.to_dict()]
        elif "validate" in results:
            found = list(of_each(results["validate"]))
        elif cut is not None:
            found = [item["validation"] for item in of_each(cut)]
        failed = None if error is None else f"the step {self.failed} failed: {error}"
        return headline_of(
            found, self.limits, failed=failed, data="validate.data", quantized="quantize" in results
        )

    @property
    def failed(self) -> str | None:
        """The step that failed, None if none did."""
        return next((step.name for step in self.steps if step.status == "failed"), None)

    @property
    def exit_code(self) -> int:
        """0 if accepted, 1 if a limit is broken, else that of what a step failed with."""
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
