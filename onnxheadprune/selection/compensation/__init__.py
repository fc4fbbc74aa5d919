"""Making up for removed heads: closed-form refits of what is left."""

from onnxheadprune.selection.compensation.compensate import compensate
from onnxheadprune.selection.compensation.record import refitted, restored, sealed
from onnxheadprune.selection.compensation.result import Compensation, Refit

__all__ = ["Compensation", "Refit", "compensate", "refitted", "restored", "sealed"]
