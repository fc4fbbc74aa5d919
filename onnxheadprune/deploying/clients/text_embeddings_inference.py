"""Hugging Face's text-embeddings-inference, known from its source code and not from a run."""

from __future__ import annotations

from onnxheadprune.deploying.clients.contract import CONFIG, Client, ConfigChange, Deployment
from onnxheadprune.deploying.clients.layers import even_heads, layers_follow
from onnxheadprune.deploying.clients.names import EXPECTED
from onnxheadprune.errors import RefusedError, named_setting

TITLE = "text-embeddings-inference"
HEADS = ("num_key_value_heads", "n_head")
LAYERS = ("num_hidden_layers", "n_layer")
"""Required; also the number of heads where the configuration has none."""
HIDDEN = ("hidden_size", "n_embd")
"""Required."""


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
                f" number and once; correct the configuration, or leave {named_setting('runtime')} out"
            )
    if folder.holds(EXPECTED[0]) and folder.holds(EXPECTED[1]):
        return (f"{TITLE} loads {EXPECTED[0]}, and not {EXPECTED[1]} beside it",)
    return ()


def _caches(folder: Deployment) -> tuple[int, int] | None:
    """The heads and the size of a head of the empty caches that it feeds to a model that takes some."""
    heads, hidden = (
        next((folder.config[name] for name in names if type(folder.config.get(name)) is int), 0)
        for names in ((*HEADS, *LAYERS), HIDDEN)
    )
    return (heads, hidden // heads) if heads else None


def _changes(cut: Deployment) -> tuple[ConfigChange, ...]:
    """The number of heads and the hidden size, whose quotient is the size of a head, and the number of layers."""
    changes, layers = list[ConfigChange](), layers_follow(cut, TITLE)
    if cut.cut_caches:
        heads, size = even_heads(cut, TITLE)
        for names, after in ((HEADS, heads), (HIDDEN, heads * size)):
            name = next((name for name in names if name in cut.config), names[0])
            if (before := cut.config.get(name)) != after:
                changes.append(ConfigChange(CONFIG, (name,), before, after))
    return (*changes, *layers)


CLIENT = Client(
    "tei",
    TITLE,
    even_caches=lambda _: True,
    caches=_caches,
    reads=(CONFIG, "tokenizer.json"),
    check=_check,
    changes=_changes,
)
