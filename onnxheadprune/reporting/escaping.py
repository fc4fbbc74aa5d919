"""Names from models and files, as they may be shown."""

from onnxheadprune.model.spelling import escaped

__all__ = ["escaped"]
