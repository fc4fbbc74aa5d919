"""Gradients of a scalar of an ONNX graph with respect to its weights, as an ONNX graph."""
