"""sentence-transformers (`SentenceTransformer(folder, backend="onnx")`).

It exports a folder without a file of the expected name again from its PyTorch weights, which are not pruned, and only
logs it.
"""

from __future__ import annotations

from onnxheadprune.deploying.clients.contract import EXPECTED, Client, Deployment
from onnxheadprune.errors import RefusedError


def _require_encoder(folder: Deployment) -> tuple[str, ...]:
    """Return notes for users of sentence-transformers."""
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


CLIENT = Client(
    "sentence-transformers", "sentence-transformers", reads=("config.json",), check=_require_encoder
)
