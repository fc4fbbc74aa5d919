"""onnxruntime-genai.

It takes the shape of every layer's cache from the model, so genai_config.json stays unchanged, also where layers keep
different numbers of KV heads. It contains only the number of caches, as the number of layers. The inputs must declare
the number of heads; the size of a head may be symbolic.

Where the configuration has types of layers, or a sliding window without a list of the layers that have one, it
allocates all caches with num_key_value_heads heads: that number follows, and a cut that leaves layers with different
numbers cannot be expressed.
"""

from __future__ import annotations

from onnxheadprune.deploying.clients.contract import Client, ConfigChange, Deployment, Json
from onnxheadprune.deploying.clients.layers import KINDS, counted, even_heads
from onnxheadprune.errors import RefusedError, named_setting

CONFIG = "genai_config.json"
TITLE = "onnxruntime-genai"
HEADS = "num_key_value_heads"


def _check(folder: Deployment) -> tuple[str, ...]:
    """Check whether the folder is an onnxruntime-genai model."""
    if CONFIG not in folder.others:
        raise RefusedError(f"{TITLE} loads a folder with {CONFIG}, and there is none")
    name = _decoder(folder).get("filename")
    if isinstance(name, str) and not folder.holds(name):
        raise RefusedError(
            f"{TITLE} cannot run this folder unpruned either: {CONFIG} names {name}, which is not there; correct the"
            f" configuration, or leave {named_setting('runtime')} out"
        )
    symbolic = [(file.name, file.symbolic[0]) for file in folder.files if file.symbolic]
    if symbolic and folder.cut_caches:
        name, value = symbolic[0]
        raise RefusedError(
            f"{TITLE} reads the heads of caches from the inputs, and {name} does not say how many {value}"
            f" has; {named_setting('cache', 'keep')} leaves the caches as they are"
        )
    return ()


def _decoder(folder: Deployment) -> Json:
    model = folder.genai.get("model")
    decoder = model.get("decoder") if isinstance(model, dict) else None
    return decoder if isinstance(decoder, dict) else {}


def _allocates_alike(folder: Deployment) -> bool:
    """Return whether all caches are allocated with one number of heads."""
    decoder = _decoder(folder)
    window = decoder.get("sliding_window")
    lists_layers = isinstance(window, dict) and bool(window.get("layers"))
    return decoder.get(KINDS) is not None or (window is not None and not lists_layers)


def _caches(folder: Deployment) -> tuple[int, int] | None:
    """The heads and the size of a head by which all caches are allocated; None where layers have sizes of their own."""
    heads, size = (_decoder(folder).get(field) for field in (HEADS, "head_size"))
    alike = _allocates_alike(folder) and len({site.head_size for site in folder.sites}) == 1
    return (heads, size) if alike and type(heads) is int and type(size) is int else None


def _changes(cut: Deployment) -> tuple[ConfigChange, ...]:
    """The number of layers, where caches are removed, and that of KV heads, where caches are allocated by it."""
    decoder = _decoder(cut)
    place = (CONFIG, ("model", "decoder"), decoder)
    layers = counted(cut, TITLE, place) if cut.lost_caches else ()
    if not cut.cut_caches or not _allocates_alike(cut):
        return layers
    heads, _ = even_heads(cut, TITLE)
    return (ConfigChange(CONFIG, (*place[1], HEADS), decoder.get(HEADS), heads), *layers)


CLIENT = Client("genai", TITLE, even_caches=_allocates_alike, caches=_caches, check=_check, changes=_changes)
