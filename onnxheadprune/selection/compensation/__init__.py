"""Making up for removed heads: closed-form refits of what is left."""

from onnxheadprune.selection.compensation.compensate import compensate
from onnxheadprune.selection.compensation.record import refitted, sealed
from onnxheadprune.selection.compensation.restoring import Restored, restored
from onnxheadprune.selection.compensation.result import Compensation, Refit
from onnxheadprune.selection.compensation.tasks import Which

__all__ = ["Compensation", "Refit", "Restored", "Which", "compensate", "refitted", "restored", "sealed"]
