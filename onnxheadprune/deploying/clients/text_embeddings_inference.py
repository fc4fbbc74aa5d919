"""Hugging Face's text-embeddings-inference, known from its source code and not from a run."""

from __future__ import annotations

from onnxheadprune.deploying.clients.contract import (
    CONFIG,
    EXPECTED,
    Client,
    Deployment,
)
from onnxheadprune.errors import RefusedError

TITLE = "text-embeddings-inference"
LAYERS = ("num_hidden_layers", "n_layer")
HIDDEN = ("hidden_size", "n_embd")
"""Required, as one of the `LAYERS` is."""


def _check(folder: Deployment) -> tuple[str, ...]:
    """Return notes for users of text-embeddings-inference."""
    taken = next((file for name in EXPECTED for file in folder.files if file.name == name), None)
    if taken is None:
        raise RefusedError(f"{TITLE} loads model.onnx or onnx/model.onnx, and neither is there")
    if not taken.is_float:
        raise RefusedError(
            f"{TITLE} takes and gives float32, and inputs or outputs of {taken.name} have another type"
        )
    for names in (HIDDEN, LAYERS):
        # Of DistilBERT, for one, it has dim and n_layers. Files that are missing are named elsewhere.
        if folder.config and [type(folder.config[name]) for name in names if name in folder.config] != [int]:
            raise RefusedError(
                f"{TITLE} cannot run this folder unpruned either: it requires {' or '.join(names)} in {CONFIG}, as a"
                f" number and once; correct the configuration, or leave `runtime` out"
            )
    if folder.holds(EXPECTED[0]) and folder.holds(EXPECTED[1]):
        return (f"{TITLE} loads {EXPECTED[0]}, and not {EXPECTED[1]} beside it",)
    return ()


def _caches(folder: Deployment) -> None:
    """Refuse cuts of caches: it computes their shapes from config.json, and was never run with such a cut."""
    if folder.cut_caches or folder.lost_caches:
        raise RefusedError(
            f"{TITLE} computes the shapes of caches from {CONFIG}, and was never run with fewer; `cache=keep` leaves"
            " the caches as they are"
        )


CLIENT = Client(
    "tei",
    TITLE,
    caches=_caches,
    reads=(CONFIG, "tokenizer.json"),
    check=_check,
)
