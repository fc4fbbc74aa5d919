"""Making up for removed heads: closed-form refits of what is left."""

from onnxheadprune.selection.compensation.compensate import compensate
from onnxheadprune.selection.compensation.record import Record, record_of, refitted, restored, sealed
from onnxheadprune.selection.compensation.result import Compensation, Refit

__all__ = ["Compensation", "Record", "Refit", "compensate", "record_of", "refitted", "restored", "sealed"]
