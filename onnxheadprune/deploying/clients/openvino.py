"""OpenVINO, which takes any cut."""

from __future__ import annotations

from onnxheadprune.deploying.clients.contract import Client

CLIENT = Client("openvino", "OpenVINO")
"""Its default precision is lower than float32, so its results differ a little on unpruned models too."""
