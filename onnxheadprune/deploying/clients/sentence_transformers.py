"""sentence-transformers (`SentenceTransformer(folder, backend="onnx")`).

It takes any cut, weights beside the model included. A folder in which it finds no file of the expected name is
exported anew from the weights of PyTorch, which nobody pruned, with no more than a line in its log.
"""

from __future__ import annotations

from onnxheadprune.deploying.clients.contract import Client, Deployment
from onnxheadprune.errors import RefusedError

EXPECTED = ("model.onnx", "onnx/model.onnx")


def check(folder: Deployment) -> tuple[str, ...]:
    """Return what a user should know.

    Raises:
        RefusedError: if there is nothing that it loads.
    """
    if folder.holds(*EXPECTED):
        return ()
    names = [file.name for file in folder.files if not file.has_cache]
    if not names:
        raise RefusedError(
            "sentence-transformers loads encoders, and every model of this folder takes a cache"
        )
    sentence = (
        "there is no model.onnx or onnx/model.onnx, without which sentence-transformers exports the unpruned weights"
        f' again: load it with model_kwargs={{"file_name": "{names[0]}"}}'
    )
    return (sentence,)


SENTENCE_TRANSFORMERS = Client("sentence-transformers", "sentence-transformers", check=check)
