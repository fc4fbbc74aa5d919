"""What a model computes on the user's data: feeds, activations as second moments, and drift."""

from onnxheadprune.selection.activations.beside import beside
from onnxheadprune.selection.activations.data import Calibration, calibration_data, random_data
from onnxheadprune.selection.activations.images import Preprocessing, image_feeds
from onnxheadprune.selection.activations.lines import Reading
from onnxheadprune.selection.activations.supplied import needs_others, supplied
from onnxheadprune.selection.activations.text import text_feeds

__all__ = [
    "Calibration",
    "Preprocessing",
    "Reading",
    "beside",
    "calibration_data",
    "image_feeds",
    "needs_others",
    "random_data",
    "supplied",
    "text_feeds",
]
