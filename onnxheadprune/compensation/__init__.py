"""Making up for removed heads: closed-form refits of what is left."""

from onnxheadprune.compensation.compensate import Compensation, Refit, compensate
from onnxheadprune.compensation.record import record_of, refitted, restored

__all__ = ["Compensation", "Refit", "compensate", "record_of", "refitted", "restored"]
