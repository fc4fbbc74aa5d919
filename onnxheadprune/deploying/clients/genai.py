"""onnxruntime-genai.

It takes the shape of every layer's cache from the model, so genai_config.json stays unchanged, also where layers keep
different numbers of KV heads. It contains only the number of caches, as the number of layers. The inputs must declare
the number of heads; the size of a head may be symbolic.

Where the configuration has types of layers, or a sliding window without a list of the layers that have one, it
allocates all caches with num_key_value_heads heads: that number follows, and a cut that leaves layers with different
numbers cannot be expressed.
"""

from __future__ import annotations

from onnxheadprune.deploying.clients.contract import CacheFields, Client, Deployment, Json, number_in
from onnxheadprune.deploying.clients.layers import KINDS
from onnxheadprune.errors import RefusedError

CONFIG = "genai_config.json"
TITLE = "onnxruntime-genai"
HEADS = "num_key_value_heads"
WAY = ("model", "decoder")


def _check(folder: Deployment) -> tuple[str, ...]:
    """Check whether the folder is an onnxruntime-genai model."""
    if CONFIG not in folder.others:
        raise RefusedError(f"{TITLE} loads a folder with {CONFIG}, and there is none")
    name = _decoder(folder).get("filename")
    if isinstance(name, str) and not folder.holds(name):
        raise RefusedError(
            f"{TITLE} cannot run this folder unpruned either: {CONFIG} names {name}, which is not there; correct the"
            f" configuration, or leave `runtime` out"
        )
    return ()


def _decoder(folder: Deployment) -> Json:
    model = folder.genai.get("model")
    decoder = model.get("decoder") if isinstance(model, dict) else None
    return decoder if isinstance(decoder, dict) else {}


def _caches(folder: Deployment) -> CacheFields | None:
    """The number of heads by which all caches are allocated; None where layers have sizes of their own."""
    decoder = _decoder(folder)
    window = decoder.get("sliding_window")
    lists_layers = isinstance(window, dict) and bool(window.get("layers"))
    if decoder.get(KINDS) is None and (window is None or lists_layers):
        return None
    heads, size = (number_in(decoder, (name,)) for name in (HEADS, "head_size"))
    known = heads is not None and size is not None and len({site.head_size for site in folder.sites}) == 1
    return CacheFields((CONFIG, WAY, decoder), (HEADS,), allocated=(heads or 0, size or 0) if known else None)


CLIENT = Client(
    "genai",
    TITLE,
    caches=_caches,
    check=_check,
    heads_of_inputs=True,
    layers=lambda folder: (CONFIG, WAY, _decoder(folder)),
)
