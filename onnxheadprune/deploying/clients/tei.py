"""Hugging Face's text-embeddings-inference with its ONNX Runtime backend (read in its sources, not run)."""

from __future__ import annotations

from onnxheadprune.deploying.clients.contract import Client, ConfigChange, Deployment
from onnxheadprune.deploying.clients.even import even_heads
from onnxheadprune.deploying.clients.layers import layers_follow
from onnxheadprune.errors import RefusedError

TITLE = "text-embeddings-inference"
EXPECTED = ("model.onnx", "onnx/model.onnx")
"""Where it looks; the first one wins."""


def check(folder: Deployment) -> tuple[str, ...]:
    """Return what a user should know.

    Raises:
        RefusedError: if the file that it loads is not there, or not in float32.
    """
    taken = next((file for name in EXPECTED for file in folder.files if file.name == name), None)
    if taken is None:
        raise RefusedError(f"{TITLE} loads model.onnx or onnx/model.onnx, and neither is there")
    if not taken.is_float:
        raise RefusedError(f"{TITLE} loads {taken.name} in float32, and its weights are in another type")
    if folder.holds(EXPECTED[0]) and folder.holds(EXPECTED[1]):
        return (f"{TITLE} loads {EXPECTED[0]}, and not {EXPECTED[1]} beside it",)
    return ()


def changes(cut: Deployment) -> tuple[ConfigChange, ...]:
    """The number of layers where caches go; those that stay must be alike.

    Raises:
        RefusedError: if they are not, or config.json has no number of layers.
    """
    if cut.cut_caches:
        even_heads(cut, TITLE)
    return layers_follow(cut, TITLE)


TEI = Client("tei", TITLE, even_caches=True, check=check, changes=changes)
