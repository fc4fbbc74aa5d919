"""Recovery by distillation: what is left of a model learns from the original."""

from onnxheadprune.selection.recovery.budget import Budget, parse_budget
from onnxheadprune.selection.recovery.checkpoint import beside, making_of
from onnxheadprune.selection.recovery.recover import (
    Recovering,
    recover,
    require_recoverable,
    split_for_recovery,
)
from onnxheadprune.selection.recovery.result import Measured, Recovery
from onnxheadprune.selection.recovery.subject import Subject

__all__ = [
    "Budget",
    "Measured",
    "Recovering",
    "Recovery",
    "Subject",
    "beside",
    "making_of",
    "parse_budget",
    "recover",
    "require_recoverable",
    "split_for_recovery",
]
