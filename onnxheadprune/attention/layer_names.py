"""Layers by the names of their sites: the numbers in module paths that count layers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby, pairwise, takewhile
from typing import NamedTuple, TypeAlias

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.model.graph.walks import stored_behind

Stack: TypeAlias = tuple[str, ...]
"""The module path that layers have in common, without their numbers: ("encoder", "layers")."""

_SPOKEN = ("layer", "layers", "h", "block", "blocks")
"""Names of stacks whose numbers count layers, also where each layer holds a single residual branch."""
_NUMBERED = re.compile(r"(.*?)[._-]*(\d{1,4})")
_CALLED = re.compile(r"(.*\d)_(\d{1,4})")
"""A numbered module, and the number of its call: TensorFlow's name of a scope that is entered again."""
_REPEATED = re.compile(r"#\d+$")
"""The running number of sites with equal names."""
_UNSAFE = re.compile(r"[\s:*,]+")
"""Characters that separate the parts of a spec, and so cannot be in the key of a layer."""


class NumberedPath(NamedTuple):
    """One number in a module path: the stack that it counts in, the number, and the path up to it."""

    stack: Stack
    number: int
    path: Stack

    @property
    def shape(self) -> Stack:
        """The stack without the numbers in its path: the stages of a pyramid are alike."""
        return tuple("*" if part.isdecimal() else part for part in self.stack)


def layers_by_name(sites: Sequence[Site]) -> dict[Stack, dict[int, list[tuple[NumberedPath, Site]]]]:
    """Return the layers that the names of sites tell, by stack and number; nothing where they tell none.

    A module path may hold several numbers: T5 calls a sublayer `encoder.block.3.layer.1`, Swin a layer
    `layers.2.blocks.5`, and a `Sequential` numbers whatever it holds. A number counts layers where what it numbers
    holds an attention and something beside it; of several such numbers the innermost does.
    """
    places = _places(sites)
    counting = _counting(sites, places)
    stacks: dict[Stack, dict[int, list[tuple[NumberedPath, Site]]]] = defaultdict(lambda: defaultdict(list))
    for site in sites:
        place = next((place for place in reversed(places[site]) if place.shape in counting), None)
        if place is not None:
            stacks[place.stack][place.number].append((place, site))
    return stacks


def common_path(names: Iterable[str]) -> Stack:
    """Return the module path that some names begin with, without a number at its end."""
    paths = [re.split(r"[./]", name) for name in names]
    common = [parts[0] for parts in takewhile(lambda some: len(set(some)) == 1, zip(*paths, strict=False))]
    while common and _NUMBERED.fullmatch(common[-1]):
        common.pop()
    return tuple(common)


def _places(sites: Iterable[Site]) -> Mapping[Site, list[NumberedPath]]:
    """Return the numbers in the module path of each site, from the outermost on."""
    paths = {
        site: [part for part in re.split(r"[./]", _REPEATED.sub("", site.name)) if part] for site in sites
    }
    called = _called(paths.values())
    found: dict[Site, list[NumberedPath]] = {site: [] for site in paths}
    for site, parts in paths.items():
        for position, part in enumerate(parts):
            path = tuple(parts[: position + 1])
            numbered = _NUMBERED.fullmatch(called.get(path, part))
            # A bare number counts in the module before it, "layer_3" in the modules "layer" beside it.
            if numbered is None or not (position or numbered[1]) or numbered[1] == site.UNNAMED:
                continue
            word = (numbered[1],) if numbered[1] else ()
            found[site].append(NumberedPath((*path[:-1], *word), int(numbered[2]), path))
    return found


def _called(paths: Iterable[Sequence[str]]) -> Mapping[Stack, str]:
    """Return the names of numbered modules without the number of their call, by their paths.

    All modules of a stack are called as often: what is behind `layer_0_1` and `layer_1_1` is no number of a layer. Of
    one that is alone, the module around it tells.
    """
    stacks: dict[tuple[Stack, str], dict[Stack, re.Match[str]]] = defaultdict(dict)
    for parts in paths:
        for position, part in enumerate(parts):
            found = _CALLED.fullmatch(part)
            numbered = None if found is None else _NUMBERED.fullmatch(found[1])
            if found is not None and numbered is not None and numbered[1]:
                path = tuple(parts[: position + 1])
                stacks[path[:-1], numbered[1]][path] = found
    names: dict[Stack, str] = {}
    for (around, _), stack in stacks.items():
        calls = {found[2] for found in stack.values()}
        if len(calls) == 1 and (len(stack) > 1 or (around and around[-1].endswith(f"_{min(calls)}"))):
            names |= {path: found[1] for path, found in stack.items()}
    return names


def _counting(sites: Sequence[Site], places: Mapping[Site, Sequence[NumberedPath]]) -> Collection[Stack]:
    """Return the shapes of the stacks whose numbers count layers."""
    held: dict[Stack, dict[tuple[Stack, int], list[Site]]] = defaultdict(lambda: defaultdict(list))
    for site in sites:
        for place in places[site]:
            held[place.shape][place.stack, place.number].append(site)
    begins = any(site.begins_layer for site in sites)
    together, alone = set(), []
    for shape, numbered in held.items():
        beginning = [[not begins or site.begins_layer for site in found] for found in numbered.values()]
        if _is_one_module(numbered):
            continue
        if any(len(found) > 1 and any(found) for found in beginning):
            if not any(_holds_layers(found, places, len(shape), begins) for found in numbered.values()):
                together.add(shape)
        elif all(map(any, beginning)) or (_is_spoken(shape) and not _alternates(numbered)):
            own = [site for found in numbered.values() for site in found]
            if not _are_between(sites, own):
                alone.append(shape)
    # Without a number that holds several sites, the outermost one that holds attention is the layer's.
    return together or set(sorted(alone, key=len)[:1])


def _is_spoken(stack: Stack) -> bool:
    """Return whether a stack is called as layers are: "layers", or "mixer_layer"."""
    return re.split(r"[_-]", stack[-1])[-1] in _SPOKEN


def _are_between(sites: Sequence[Site], some: Sequence[Site]) -> bool:
    """Return whether other blocks lie between some sites: their numbers are not those of whole layers."""
    places = [place for place, site in enumerate(sites) if site in some]
    between = sites[places[0] : places[-1]]
    return any(not site.begins_layer and site not in some for site in between)


def _alternates(numbered: Mapping[tuple[Stack, int], Sequence[Site]]) -> bool:
    """Return whether numbers count sublayers: attention and network one after the other, or no attention at all."""
    begins = [found[0].begins_layer for _, found in sorted(numbered.items())]
    return not any(begins) or all(one != other for one, other in pairwise(begins))


def _holds_layers(
    sites: Sequence[Site], places: Mapping[Site, Sequence[NumberedPath]], depth: int, attends: bool
) -> bool:
    """Return whether sites of one number are several layers: an attention follows a block, under its own.

    Args:
        attends: whether the model has attention; else each site with a number of its own, in a stack, is a layer.
    """
    some = groupby(sites, lambda site: site.begins_layer if attends else site)
    runs = [list(run) for begins, run in some if begins]
    inner = [
        [
            tuple(
                (place.stack, place.number)
                for place in places[site]
                if len(place.stack) > depth and (attends or _is_spoken(place.stack))
            )[-1:]
            for site in run
        ]
        for run in runs
    ]
    # A decoder's layer has two attentions in a row, under one number.
    own = [set(numbers) for numbers in inner]
    apart = sum(map(len, own)) == len(set().union(*own))
    return len(runs) > 1 and apart and all(number for numbers in inner for number in numbers)


def _is_one_module(numbered: Mapping[tuple[Stack, int], Iterable[Site]]) -> bool:
    """Return whether one module runs several times: its number is that of none of its runs, nor are those of calls."""
    if len(numbered) == 1:
        return any(_REPEATED.search(site.name) for found in numbered.values() for site in found)
    if not all(_NUMBERED.fullmatch(stack[-1]) for stack, _ in numbered):
        return False
    weights = {
        frozenset(
            value for site in found for item in site.projections if (value := stored_behind(item.operand))
        )
        for found in numbered.values()
    }
    return len(weights) == 1 and weights != {frozenset()}


def stack_labels(stacks: Sequence[Stack]) -> dict[Stack, str]:
    """The prefix of each stack's numbers in keys: the part of its path that the others do not have."""
    first = stacks[0] if stacks else ()
    shortest = min(map(len, stacks), default=0)
    front = next((n for n in range(shortest) if any(stack[n] != first[n] for stack in stacks)), shortest)
    back = next(
        (n for n in range(shortest - front) if any(stack[-1 - n] != first[-1 - n] for stack in stacks)),
        shortest - front,
    )
    own = {stack: ".".join(stack[front : len(stack) - back]) for stack in stacks}
    return {stack: f"{_UNSAFE.sub('_', label)}." if label else "" for stack, label in own.items()}
