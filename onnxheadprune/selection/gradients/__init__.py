"""Gradients of a scalar of an ONNX graph with respect to its weights, as an ONNX graph."""

from onnxheadprune.selection.gradients.differentiate import Gradient, differentiate
from onnxheadprune.selection.gradients.halving import Halved, halved

__all__ = ["Gradient", "Halved", "differentiate", "halved"]
