"""The runtimes by name, and those that take any cut: encoders' libraries, OpenVINO and ONNX Runtime itself.

sentence-transformers (`SentenceTransformer(folder, backend="onnx")`) exports a folder without a file of the
expected name again from its PyTorch weights, which are not pruned, and only logs it. Hugging Face's
text-embeddings-inference is known from its source code, not from a run. FastEmbed (`TextEmbedding.add_custom_model`)
downloads the files that the configuration lists: the model, and external weights as `additional_files`.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from onnxheadprune.deploying.clients.contract import Client, ConfigChange, Deployment
from onnxheadprune.deploying.clients.genai import GENAI
from onnxheadprune.deploying.clients.layers import even_heads, layers_follow
from onnxheadprune.deploying.clients.optimum import OPTIMUM
from onnxheadprune.deploying.clients.transformers_js import TRANSFORMERS_JS
from onnxheadprune.errors import RefusedError, UsageError

_EXPECTED = ("model.onnx", "onnx/model.onnx")
"""Where a model is looked for; text-embeddings-inference loads the first one."""
_TEI_TITLE = "text-embeddings-inference"


def _require_encoder(folder: Deployment) -> tuple[str, ...]:
    """Return notes for users of sentence-transformers."""
    if folder.holds(*_EXPECTED):
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


def _require_float(folder: Deployment) -> tuple[str, ...]:
    """Return notes for users of text-embeddings-inference.

    Raises:
        RefusedError: if the file that it loads is not there, or not in float32.
    """
    taken = next((file for name in _EXPECTED for file in folder.files if file.name == name), None)
    if taken is None:
        raise RefusedError(f"{_TEI_TITLE} loads model.onnx or onnx/model.onnx, and neither is there")
    if not taken.is_float:
        raise RefusedError(f"{_TEI_TITLE} loads {taken.name} in float32, and its weights are in another type")
    if folder.holds(_EXPECTED[0]) and folder.holds(_EXPECTED[1]):
        return (f"{_TEI_TITLE} loads {_EXPECTED[0]}, and not {_EXPECTED[1]} beside it",)
    return ()


def _tei_changes(cut: Deployment) -> tuple[ConfigChange, ...]:
    """The number of layers where caches are removed; the remaining layers must have equal caches.

    Raises:
        RefusedError: if they are not, or config.json has no number of layers.
    """
    if cut.cut_caches:
        even_heads(cut, _TEI_TITLE)
    return layers_follow(cut, _TEI_TITLE)


def _name_weights(folder: Deployment) -> tuple[str, ...]:
    """Return how to declare a model with external weights to FastEmbed."""
    paths = [PurePosixPath(file.name) for file in folder.files if file.data_files]
    return tuple(
        f"name the weights beside {path} to add_custom_model:"
        f' additional_files=["{path.with_name(f"{path.name}_data")}"]'
        for path in paths
    )


_SENTENCE_TRANSFORMERS = Client("sentence-transformers", "sentence-transformers", check=_require_encoder)
_TEI = Client("tei", _TEI_TITLE, even_caches=True, check=_require_float, changes=_tei_changes)
_FASTEMBED = Client("fastembed", "FastEmbed", check=_name_weights, data_name="{}_data")


ORT = Client("ort", "ONNX Runtime")
OPENVINO = Client("openvino", "OpenVINO")
"""Its default precision is lower than float32, so its results differ a little on unpruned models too."""


CLIENTS = {
    client.name: client
    for client in (_SENTENCE_TRANSFORMERS, OPTIMUM, TRANSFORMERS_JS, GENAI, _TEI, _FASTEMBED, OPENVINO, ORT)
}


def client_named(name: str) -> Client:
    """A runtime by its name.

    Raises:
        UsageError: if no runtime has that name.
    """
    if name not in CLIENTS:
        raise UsageError(f"there is no runtime {name!r}; known are {', '.join(CLIENTS)}")
    return CLIENTS[name]
