"""Hugging Face's text-embeddings-inference, known from its source code and not from a run."""

from __future__ import annotations

from onnxheadprune.deploying.clients.contract import Client, ConfigChange, Deployment
from onnxheadprune.deploying.clients.layers import even_heads, layers_follow
from onnxheadprune.deploying.clients.names import EXPECTED
from onnxheadprune.errors import RefusedError

TITLE = "text-embeddings-inference"


def _require_float(folder: Deployment) -> tuple[str, ...]:
    """Return notes for users of text-embeddings-inference."""
    taken = next((file for name in EXPECTED for file in folder.files if file.name == name), None)
    if taken is None:
        raise RefusedError(f"{TITLE} loads model.onnx or onnx/model.onnx, and neither is there")
    if not taken.is_float:
        raise RefusedError(f"{TITLE} loads {taken.name} in float32, and its weights are in another type")
    if folder.holds(EXPECTED[0]) and folder.holds(EXPECTED[1]):
        return (f"{TITLE} loads {EXPECTED[0]}, and not {EXPECTED[1]} beside it",)
    return ()


def _changes(cut: Deployment) -> tuple[ConfigChange, ...]:
    """The number of layers where caches are removed; the remaining layers must have equal caches."""
    if cut.cut_caches:
        even_heads(cut, TITLE)
    return layers_follow(cut, TITLE)


CLIENT = Client("tei", TITLE, even_caches=lambda _: True, check=_require_float, changes=_changes)
