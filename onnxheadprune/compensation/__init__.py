"""Making up for removed heads: closed-form refits of what is left."""

from onnxheadprune.compensation.compensate import compensate
from onnxheadprune.compensation.record import record_of, refitted, restored
from onnxheadprune.compensation.result import Compensation, Refit

__all__ = ["Compensation", "Refit", "compensate", "record_of", "refitted", "restored"]
