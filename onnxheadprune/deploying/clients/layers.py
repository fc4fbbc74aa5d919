"""Fields of a configuration that count layers or KV heads, and their values after a cut.

Most runtimes read one number for all layers. `per_layer_config` of transformers 5 has the number of KV heads of each
layer. It is written on request only: once layers differ, transformers 5 raises where a program reads the one number
for all layers, as older programs do. The number of query heads is not changed: some
configurations (Llama's) check it against the hidden size while they are read, and raise if layers differ in it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from onnxheadprune.deploying.clients.contract import CONFIG, ConfigChange, Deployment, Json
from onnxheadprune.errors import RefusedError, named_setting
from onnxheadprune.settings.units import called

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
LEAVE = f"leave {named_setting('cache', 'renumber')} out, and the caches keep their shapes"


def of_decoder(config: Json) -> tuple[tuple[str, ...], Json]:
    """The configuration of the decoder, and its path of names."""
    for name in NESTED:
        if isinstance(config.get(name), dict):
            return (name,), config[name]
    return (), config


def layers_follow(cut: Deployment, client: str) -> tuple[ConfigChange, ...]:
    """The fields of config.json that change where caches are removed."""
    if not cut.lost_caches:
        return ()
    way, config = of_decoder(cut.config)
    return counted(cut, client, (CONFIG, way, config))


def counted(
    cut: Deployment, client: str, place: tuple[str, tuple[str, ...], Json]
) -> tuple[ConfigChange, ...]:
    """The fields with the number of layers, and those that go by layers, without the layers whose caches are removed.

    Args:
        place: the file, the path of names to the configuration in it, and that configuration.
    """
    file, way, config = place
    fields = [name for name in DECODER_LAYERS if type(config.get(name)) is int][:1] or [
        name for name in LAYERS if type(config.get(name)) is int
    ]
    if not fields:
        raise RefusedError(
            f"{client} counts caches by a number of layers, and {file} has none in a field that is known here; {LEAVE}"
        )
    before, caches = config[fields[0]], len(cut.sites)
    gone = [position for position, site in enumerate(cut.sites) if site.leaves]
    # A layer of a decoder that reads an encoder has two caches.
    each, rest = divmod(caches, before) if before > 0 else (0, 1)
    if rest or not each or len(gone) % each:
        raise RefusedError(
            f"{client} counts caches by {fields[0]} of {file}, which says {before} where the models have caches in"
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
    keep = f"{named_setting('cache', 'keep')} leaves the caches as they are, and any set of heads may go then"
    if len(sizes) > 1:
        raise RefusedError(
            f"{client} takes one size of heads for the caches of all layers, and here they differ; {keep}"
        )
    nearest = _nearest(cut)
    heads = named_setting("heads", f'"{nearest}"')
    better = f"; the nearest set that it can is {heads}" if nearest else ""
    raise RefusedError(
        f"{client} cannot express this cut: it takes one number of KV heads for all layers, and the caches would have"
        f" {told}{better}; {keep}"
    )


def _nearest(cut: Deployment) -> str:
    """A head spec that removes equally many KV heads from every cached layer, as near as possible to the request.

    Layers whose caches are removed, and sites without caches, lose what was asked for. Empty where no set of heads
    would do: layers start with different numbers of KV heads, or some cannot lose one by one, or lose all of them.
    """
    sites = [site for site in cut.sites if not site.leaves]
    if len({site.before for site in sites}) > 1 or any(len(site.gone) == len(site.groups) for site in sites):
        return ""
    total = sum(site.before - site.after for site in sites)
    count = max(1, min(round(total / len(sites)), sites[0].before - 1))
    words = []
    for site in cut.sites:
        others = [position for position in range(len(site.groups)) if position not in site.gone]
        chosen = sorted(site.gone if site.leaves else [*site.gone, *others][:count])
        heads = sorted(head for position in chosen for head in site.groups[position])
        words.append(f"{called(site.index)}:{','.join(map(str, heads))}")
    return " ".join([*words, *cut.elsewhere])


FIELD = "per_layer_config"
_KEEP = f"leave {named_setting('per_layer_config')} out"


def described(cut: Deployment) -> tuple[ConfigChange, ...]:
    """Return the fields of config.json that declare the KV heads of every layer to transformers 5.

    Where all layers keep equally many, the one number for all layers is enough.
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
    """Return the configuration's present entries per layer; their numbers may have leading zeros."""
    if said is None:
        return {}
    try:
        return {int(layer): dict(fields) for layer, fields in said.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise RefusedError(f"{FIELD} of {CONFIG} is no mapping of layers to their fields; {_KEEP}") from error
