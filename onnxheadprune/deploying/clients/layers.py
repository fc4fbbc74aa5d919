"""Fields of a configuration that count layers or KV heads, and their values after a cut.

Runtimes read one number for all layers. `per_layer_config` of transformers 5, which has one for each, is not written:
once layers differ, transformers 5 raises where a program reads the one number, as Optimum does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from onnxheadprune.deploying.clients.contract import CONFIG, Client, ConfigChange, Deployment, Json, Place
from onnxheadprune.errors import RefusedError

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
DECODER_LAYERS = ("num_decoder_layers", "decoder_layers")
"""Fields of configurations of two stacks for the decoder, whose caches are counted."""
KV_HEADS = ("num_key_value_heads", "num_kv_heads")
KINDS = "layer_types"
_BY_LAYER = re.compile(r"layer|_types$|_idxs?$|_ind(ices|exes)$")
"""Names of lists and mappings that go by layers."""
_RULE = re.compile(
    r"(layer|attention|attn|window)_(period|interval|pattern|step)$|layer_freq$|(?<!encoder_)sparse_step$|every_n_layers$"
    r"|(?P<front>^first_k_dense|^num_dense_layers$|^max_window_layers$)"
    r"|(?P<back>shared_layers$|^n_(in|out)put_layers$)"
)
"""Names of numbers that say which layers are of a kind, where no list does; those with "back" do so beside a list."""
NESTED = ("text_config", "decoder")
"""Fields with the decoder's configuration, where there are several models."""
LEAVE = "leave `cache=renumber` out, and the caches keep their shapes"


def of_decoder(config: Json) -> tuple[tuple[str, ...], Json]:
    """The configuration of the decoder, and its path of names."""
    for name in NESTED:
        if isinstance(config.get(name), dict):
            return (name,), config[name]
    return (), config


def in_config(cut: Deployment) -> Place:
    """The configuration of the decoder in config.json."""
    return CONFIG, *of_decoder(cut.config)


def layers_follow(cut: Deployment, client: Client) -> tuple[ConfigChange, ...]:
    """The fields with the number of layers, and those that go by layers, without those whose caches are removed."""
    if client.layers is None or not cut.lost_caches:
        return ()
    (file, way, config), title = client.layers(cut), client.title
    fields = [name for name in DECODER_LAYERS if type(config.get(name)) is int][:1] or [
        name for name in LAYERS if type(config.get(name)) is int
    ]
    if not fields:
        raise RefusedError(
            f"{title} counts caches by a number of layers, and {file} has none in a field that is known here; {LEAVE}"
        )
    before, caches = config[fields[0]], len(cut.sites)
    gone = [position for position, site in enumerate(cut.sites) if site.leaves]
    # A layer of a decoder that reads an encoder has two caches.
    each, rest = divmod(caches, before) if before > 0 else (0, 1)
    if rest or not each or len(gone) % each:
        raise RefusedError(
            f"{title} counts caches by {fields[0]} of {file}, which says {before} where the models have caches in"
            f" {caches} attention sites, of which {len(gone)} would go; {LEAVE}"
        )
    away = {position // each for position in gone}
    kept = [layer for layer in range(before) if layer not in away]
    numbers = (
        ConfigChange(file, (*way, name), before, len(kept)) for name in fields if config[name] == before
    )
    return (*numbers, *_by_layer(file, way, config, before, kept))


def _by_layer(
    file: str, way: tuple[str, ...], config: Json, before: int, kept: Sequence[int]
) -> Iterator[ConfigChange]:
    """Yield the lists and mappings with an entry for each layer, with those of the kept layers.

    Raises:
        RefusedError: if a field goes by layers in another way, or may do so.
    """
    listed, ruled = False, None
    for name, value in config.items():
        after: object = None
        names, says = (*way, name), _BY_LAYER.search(name) is not None
        if isinstance(value, dict) and value and all(key.isdecimal() for key in value):
            entries = {int(key): entry for key, entry in value.items()}
            if says and max(entries) < before:
                after = {str(to): entries[layer] for to, layer in enumerate(kept) if layer in entries}
            says = not all(isinstance(entry, str) for entry in entries.values())
        elif isinstance(value, dict) and not any(field in value for field in (*DECODER_LAYERS, *LAYERS)):
            yield from _by_layer(file, names, value, before, kept)
            continue
        elif isinstance(value, list) and value:
            if says and len(value) == before and not _may_be_numbers(value):
                after, listed = [value[layer] for layer in kept], True
                if name == KINDS and after[-1:] != value[-1:]:
                    # Gemma's configurations change the last entry while they are read.
                    after = None
            says = says or len(value) == before
        elif type(value) is int and value > 0 and (rule := _RULE.search(name)) is not None:
            says = rule["back"] is not None
            idle = rule["front"] == "max_window_layers" and not config.get("use_sliding_window", True)
            # Rules that count from the front still hold for the first layers.
            if not idle and (value > 1 or rule["front"]) and list(kept) != [*range(len(kept))]:
                ruled = names
        else:
            continue
        if after is not None:
            yield ConfigChange(file, names, value, after)
        elif says:
            raise _unclear(file, names)
    if ruled is not None and not listed:
        raise _unclear(file, ruled)


def _may_be_numbers(value: list[Any]) -> bool:
    """Return whether a list may be one of increasing numbers of layers."""
    return all(type(item) is int for item in value) and all(one < two for one, two in pairwise(value))


def _unclear(file: str, names: tuple[str, ...]) -> RefusedError:
    return RefusedError(
        f"{'.'.join(names)} of {file} may specify properties of single layers, and its value without the removed ones"
        f" cannot be derived; {LEAVE}"
    )


def even_heads(cut: Deployment, client: str) -> tuple[int, int]:
    """The KV heads that every cached layer has after a cut, and the size of one."""
    staying = [site for site in cut.sites if not site.leaves]
    counts = {site.after for site in staying}
    sizes = {site.head_size for site in staying}
    if len(counts) == 1 and len(sizes) == 1:
        return counts.pop(), sizes.pop()
    layers = sorted(Counter(site.after for site in staying).items())
    told = ", ".join(f"{heads} in {many} {'layer' if many == 1 else 'layers'}" for heads, many in layers)
    keep = "`cache=keep` leaves the caches as they are, and any set of heads may go then"
    if len(sizes) > 1:
        raise RefusedError(
            f"{client} takes one size of heads for the caches of all layers, and here they differ; {keep}"
        )
    raise RefusedError(
        f"{client} cannot express this cut: it takes one number of KV heads for all layers, and the caches would have"
        f" {told}; {keep}"
    )
