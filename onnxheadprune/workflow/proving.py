"""The proof that a pruned model needs before it is written, and the note of it in the model's metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxheadprune.edit.records import VALIDATION_KEY
from onnxheadprune.errors import ValidationFailedError
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.feeds.samples import DataSource
from onnxheadprune.workflow.requests import Request

if TYPE_CHECKING:
    from onnxheadprune.validation.result import Validation

NOT_VALIDATED = "skipped (--no-validate)"


@dataclass(frozen=True)
class Proof:
    """The original that candidates are compared with, where, and on which inputs.

    Attributes:
        original: the model before any change.
        request: what was asked for.
        provider: where both run, None without a proof.
        data: the user's inputs, None for random ones only.
    """

    original: LoadedModel
    request: Request
    provider: Provider | None
    data: DataSource | None

    def of(self, candidate: LoadedModel) -> Validation | None:
        """The verdict on a model, if it may be written with it; None where no proof is asked for.

        Raises:
            ValidationFailedError: if it may not.
        """
        request = self.request
        if self.provider is None or not request.proving.validate:
            return None
        from onnxheadprune.validation.proof import validate

        verdict = validate(
            self.original,
            candidate,
            data=self.data,
            provider=self.provider,
            seed=request.run.seed,
            effect=request.choice.effect,
            unseen=self.data is not None and _is_unseen(self.data),
        )
        if verdict.verdict == "failed":
            raise ValidationFailedError(
                f"validation failed, so nothing is written: {verdict.reason}", verdict
            )
        if verdict.verdict == "inconclusive" and not request.proving.accept_inconclusive:
            raise ValidationFailedError(
                f"validation is inconclusive, so nothing is written: {verdict.reason};"
                f" {request.proving.acceptance} writes the file all the same",
                verdict,
            )
        return verdict


def _is_unseen(data: DataSource) -> bool:
    """Return whether it is data that no training has seen."""
    from onnxheadprune.selection.activations.data import Calibration

    return isinstance(data, Calibration) and data.unseen


def validation_note(verdict: Validation | None) -> tuple[str, str]:
    """The metadata entry that tells of a proof, and that there was none."""
    return VALIDATION_KEY, NOT_VALIDATED if verdict is None else verdict.stamp()
