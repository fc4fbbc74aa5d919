"""`per_layer_config` of transformers 5: a configuration that says layer by layer how many KV heads are left.

It is made on request only: once layers differ, transformers 5 raises where a program reads the one number that used to
hold for all of them, as every program did before. The number of query heads stays what it is: some configurations
(Llama's) check it against the hidden size while they are read, and raise if layers differ in it.
"""

from __future__ import annotations

from typing import Any

from onnxheadprune.deploying.clients.contract import CONFIG, ConfigChange, Deployment
from onnxheadprune.deploying.clients.layers import LAYERS, of_decoder
from onnxheadprune.deploying.clients.optimum import KV_HEADS
from onnxheadprune.errors import RefusedError

FIELD = "per_layer_config"
_KEEP = "leave --per-layer-config out"


def described(cut: Deployment) -> tuple[ConfigChange, ...]:
    """Return what config.json must say for transformers 5 to know the KV heads of every layer.

    Where all layers keep equally many, that is the one number itself.

    Raises:
        RefusedError: if the configuration cannot say it.
    """
    if cut.lost_caches:
        raise RefusedError(
            f"{FIELD} names layers by the numbers of their caches, and some caches are removed, so that the others are"
            f" renumbered; {_KEEP}"
        )
    if not cut.cut_caches:
        return ()
    way, config = of_decoder(cut.config)
    name = next((name for name in KV_HEADS if type(config.get(name)) is int), None)
    if name is None:
        raise RefusedError(
            f"{CONFIG} has no number of KV heads of its own, so {FIELD} cannot say how many a layer has; {_KEEP}"
        )
    layers = next((config[name] for name in LAYERS if type(config.get(name)) is int), None)
    if layers != len(cut.sites):
        raise RefusedError(
            f"{CONFIG} has {'no number of' if layers is None else layers} layers, and the models have caches in"
            f" {len(cut.sites)}, so which layer is which cannot be said; {_KEEP}"
        )
    before = _known(config.get(FIELD))
    counts = [site.after for site in cut.sites]
    even = len(set(counts)) == 1
    common = counts[0] if even else config[name]
    after = {layer: dict(said) for layer, said in before.items()}
    for layer, count in enumerate(counts):
        said = after.setdefault(layer, {})
        said.pop(name, None)
        if count != common:
            said[name] = count
    after = {layer: said for layer, said in sorted(after.items()) if said}
    changes = []
    if common != config[name]:
        changes.append(ConfigChange(CONFIG, (*way, name), config[name], common))
    if after != before:
        spelled = {str(layer): said for layer, said in after.items()}
        changes.append(ConfigChange(CONFIG, (*way, FIELD), config.get(FIELD), spelled))
    return tuple(changes)


def _known(said: Any) -> dict[int, dict[str, Any]]:
    """Return what the configuration says of layers already; numbers may have zeros in front."""
    if said is None:
        return {}
    try:
        return {int(layer): dict(fields) for layer, fields in said.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise RefusedError(f"{FIELD} of {CONFIG} is no mapping of layers to their fields; {_KEEP}") from error
