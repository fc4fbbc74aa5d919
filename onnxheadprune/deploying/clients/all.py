"""The runtimes by name, and those that load a file and require nothing of a folder."""

from __future__ import annotations

from onnxheadprune.deploying.clients.contract import Client
from onnxheadprune.deploying.clients.embeddings import FASTEMBED, SENTENCE_TRANSFORMERS, TEI
from onnxheadprune.deploying.clients.genai import GENAI
from onnxheadprune.deploying.clients.optimum import OPTIMUM
from onnxheadprune.deploying.clients.transformers_js import TRANSFORMERS_JS
from onnxheadprune.errors import UsageError

ORT = Client("ort", "ONNX Runtime")
OPENVINO = Client("openvino", "OpenVINO")
"""Its default precision is lower than float32, so its results differ a little on unpruned models too."""


CLIENTS = {
    client.name: client
    for client in (SENTENCE_TRANSFORMERS, OPTIMUM, TRANSFORMERS_JS, GENAI, TEI, FASTEMBED, OPENVINO, ORT)
}


def client_named(name: str) -> Client:
    """A client by its name.

    Raises:
        UsageError: if there is none of that name.
    """
    if name not in CLIENTS:
        raise UsageError(f"there is no runtime {name!r}; known are {', '.join(CLIENTS)}")
    return CLIENTS[name]
