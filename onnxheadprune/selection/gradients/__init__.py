"""Gradients of a scalar of an ONNX graph with respect to its weights, as an ONNX graph."""

from onnxheadprune.selection.gradients.differentiate import Gradient, differentiate

__all__ = ["Gradient", "differentiate"]
