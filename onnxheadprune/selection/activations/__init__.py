"""What a model computes on the user's data: feeds, activations as second moments, and drift."""

from onnxheadprune.selection.activations.data import Calibration, calibration_data, random_data
from onnxheadprune.selection.activations.images import Preprocessing, image_feeds
from onnxheadprune.selection.activations.text import text_feeds

__all__ = ["Calibration", "Preprocessing", "calibration_data", "image_feeds", "random_data", "text_feeds"]
