"""ONNX Runtime itself, which takes any cut."""

from __future__ import annotations

from onnxheadprune.deploying.clients.contract import Client

CLIENT = Client("ort", "ONNX Runtime")
