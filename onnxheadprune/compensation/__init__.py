"""Making up for removed heads: closed-form refits of what is left."""

from onnxheadprune.compensation.compensate import compensate
from onnxheadprune.compensation.record import Record, record_of, refitted, restored, sealed
from onnxheadprune.compensation.result import Compensation, Refit

__all__ = ["Compensation", "Record", "Refit", "compensate", "record_of", "refitted", "restored", "sealed"]
