"""Clients that count caches by a number of layers in a configuration: what follows when some layers lose theirs."""

from __future__ import annotations

from typing import Any

from onnxheadprune.deploying.clients.contract import CONFIG, ConfigChange, Deployment, Json
from onnxheadprune.errors import RefusedError

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
DECODER_LAYERS = ("num_decoder_layers", "decoder_layers")
"""What configurations of two stacks call those of the decoder, whose caches are counted."""
KINDS = "layer_types"
"""What a configuration says of each layer, in a list."""
NESTED = ("text_config", "decoder")
"""Where configurations of several models keep that of the decoder."""
LEAVE = "leave --cache renumber out, and the caches keep their shapes"


def of_decoder(config: Json) -> tuple[tuple[str, ...], Json]:
    """The configuration of the decoder, and the names that lead to it."""
    for name in NESTED:
        if isinstance(config.get(name), dict):
            return (name,), config[name]
    return (), config


def layers_follow(cut: Deployment, client: str) -> tuple[ConfigChange, ...]:
    """The fields of config.json that follow where caches go.

    Args:
        cut: the folder and the cut.
        client: how to call the client in errors.

    Raises:
        RefusedError: if the configuration cannot say it.
    """
    if not cut.lost_caches:
        return ()
    way, config = of_decoder(cut.config)
    return counted(cut, client, (CONFIG, way, config))


def counted(
    cut: Deployment, client: str, place: tuple[str, tuple[str, ...], Json]
) -> tuple[ConfigChange, ...]:
    """The number of layers, and a list of what each of them is, without the layers whose caches go.

    Args:
        cut: the folder and the cut.
        client: how to call the client in errors.
        place: the file, the names that lead to the configuration in it, and that configuration.

    Raises:
        RefusedError: if the configuration has no number of layers, or not that of the caches.
    """
    file, way, config = place
    field = next((name for name in (*DECODER_LAYERS, *LAYERS) if type(config.get(name)) is int), None)
    if field is None:
        raise RefusedError(
            f"{client} counts caches by a number of layers, and {file} has none in a field that is known here; {LEAVE}"
        )
    before, caches = config[field], len(cut.sites)
    gone = [position for position, site in enumerate(cut.sites) if site.leaves]
    # A layer of a decoder that reads an encoder has two caches.
    each, rest = divmod(caches, before) if before > 0 else (0, 1)
    if rest or not each or len(gone) % each:
        raise RefusedError(
            f"{client} counts caches by {field} of {file}, which says {before} where the models have caches in {caches}"
            f" attention sites, of which {len(gone)} would go; {LEAVE}"
        )
    changes = [ConfigChange(file, (*way, field), before, before - len(gone) // each)]
    kinds: Any = config.get(KINDS)
    if isinstance(kinds, list) and len(kinds) == before:
        away = {position // each for position in gone}
        left = [kind for layer, kind in enumerate(kinds) if layer not in away]
        changes.append(ConfigChange(file, (*way, KINDS), kinds, left))
    return tuple(changes)
