"""Runtimes that load a file and ask nothing of a folder: they take any cut as it is."""

from __future__ import annotations

from onnxheadprune.workflow.clients.contract import Client

ORT = Client("ort", "ONNX Runtime")
OPENVINO = Client("openvino", "OpenVINO")
"""Its default precision is lower than float32, so its results differ a little on unpruned models too."""
