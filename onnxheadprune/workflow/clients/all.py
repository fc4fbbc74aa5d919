"""The runtimes by name, and those that load a file and require nothing of a folder."""

from __future__ import annotations

from onnxheadprune.errors import UsageError
from onnxheadprune.workflow.clients.contract import Client
from onnxheadprune.workflow.clients.fastembed import FASTEMBED
from onnxheadprune.workflow.clients.genai import GENAI
from onnxheadprune.workflow.clients.optimum import OPTIMUM
from onnxheadprune.workflow.clients.sentence_transformers import SENTENCE_TRANSFORMERS
from onnxheadprune.workflow.clients.tei import TEI
from onnxheadprune.workflow.clients.transformers_js import TRANSFORMERS_JS

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
