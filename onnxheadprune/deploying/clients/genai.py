"""onnxruntime-genai.

It takes the shape of every layer's cache from the model, so genai_config.json stays unchanged, also where layers keep
different numbers of KV heads. It contains only the number of caches, as the number of layers. The inputs must declare
the number of heads; the size of a head may be symbolic.
"""

from __future__ import annotations

from onnxheadprune.deploying.clients.contract import Client, ConfigChange, Deployment
from onnxheadprune.deploying.clients.layers import LEAVE, counted
from onnxheadprune.errors import RefusedError

CONFIG = "genai_config.json"


def _check(folder: Deployment) -> tuple[str, ...]:
    """Check whether the folder is an onnxruntime-genai model.

    Raises:
        RefusedError: if it is not, or a cut cache has a symbolic number of heads.
    """
    if CONFIG not in folder.others:
        raise RefusedError(f"onnxruntime-genai loads a folder with {CONFIG}, and there is none")
    symbolic = [(file.name, file.symbolic[0]) for file in folder.files if file.symbolic]
    if symbolic and folder.cut_caches:
        name, value = symbolic[0]
        raise RefusedError(
            f"onnxruntime-genai reads the heads of caches from the inputs, and {name} does not say how many {value}"
            " has; --cache keep leaves the caches as they are"
        )
    return ()


def _changes(cut: Deployment) -> tuple[ConfigChange, ...]:
    """The number of layers, where caches are removed.

    Raises:
        RefusedError: if genai_config.json has none, or refers to layers by their numbers.
    """
    if not cut.lost_caches:
        return ()
    model = cut.genai.get("model")
    decoder = model.get("decoder") if isinstance(model, dict) else None
    decoder = decoder if isinstance(decoder, dict) else {}
    window = decoder.get("sliding_window")
    if isinstance(window, dict) and window.get("layers"):
        raise RefusedError(
            f"{CONFIG} lists layers with a sliding window by their numbers, which would not be theirs any more; {LEAVE}"
        )
    return counted(cut, "onnxruntime-genai", (CONFIG, ("model", "decoder"), decoder))


GENAI = Client("genai", "onnxruntime-genai", check=_check, changes=_changes)
