"""Names of files that runtimes look for."""

from __future__ import annotations

EXPECTED = ("model.onnx", "onnx/model.onnx")
"""Places of encoders; text-embeddings-inference loads the first one that is there."""
