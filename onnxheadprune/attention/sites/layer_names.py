"""The layers that nodes belong to by the names of their modules: the numbers in module paths that count layers."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple, TypeAlias

from onnxheadprune.attention.sites.projection import common_prefix, node_path, weight_path
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.model.graph.view import GraphView, Node
from onnxheadprune.model.graph.walks import stored_behind

Stack: TypeAlias = tuple[str, ...]
"""The module path that layers have in common, without their numbers: ("encoder", "layers")."""

_SPOKEN = ("layer", "layers", "h", "block", "blocks")
"""Names of stacks whose numbers count layers, also where each layer holds a single residual branch."""
_NUMBERED = re.compile(r"(.*?)[._-]*(\d{1,4})")
_CALLED = re.compile(r"(.*\d)_(\d{1,4})")
"""A numbered module, and the number of its call: TensorFlow's name of a scope that is entered again."""
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


class _Module(NamedTuple):
    """A numbered module: its stack, its number, and how often the stack began again before it."""

    stack: Stack
    number: int
    run: int


class _Part(NamedTuple):
    """A site as names show it."""

    numbers: tuple[NumberedPath, ...]  # in its module path, from the outermost on
    path: Stack
    begins: bool  # whether a layer may begin with it
    site: Site


def labels(view: GraphView, sites: Sequence[Site]) -> dict[Node, NumberedPath]:
    """Return the layer of each node that a name puts into one.

    A module path may hold several numbers: T5 calls a sublayer `encoder.block.3.layer.1`, Swin a layer
    `layers.2.blocks.5`, and a `Sequential` numbers whatever it holds. A number counts layers where what it numbers
    holds an attention and something beside it; of several such numbers the innermost does. Where no number holds a
    site, the outermost one of a stack that is called as layers are does.
    """
    paths = {node: tuple(path) for node in view.needed if (path := node_path(node))}
    stored = {node: tuple(path) for node in view.needed if (path := weight_path(node))}
    numbers = _numbers({*paths.values(), *stored.values()})
    begins = any(site.KIND.begins_layers for site in sites)

    def prefix(nodes: Iterable[Node]) -> Stack:
        return common_prefix(paths[node] for node in nodes if node in paths)

    parts = [
        _Part(found, path, site.KIND.begins_layers, site)
        for site in sorted(sites, key=lambda site: min(item.node.index for item in site.projections))
        if begins or site.is_branch
        for ends in ([item.node for item in site.projections],)
        # A projection without a name may have its bias behind it.
        for behind in ([node.readers[0] for node in ends if len(node.readers) == 1],)
        for path in (prefix([*ends, *site.cores]) or prefix(behind),)
        if (found := numbers.get(path, ()))
    ]
    counting = _counting(parts) if parts else set()
    if not counting:
        spoken = {place.shape for own in numbers.values() for place in own if _is_spoken(place.shape)}
        counting = set(sorted(spoken, key=len)[:1])
    counted = {
        path: next((place for place in reversed(own) if place.shape in counting), None)
        for path, own in numbers.items()
    }
    # Where a module does not say it, its weight may.
    return {
        node: place
        for known in (stored, paths)
        for node, path in known.items()
        if (place := counted[path]) is not None
    }


def _numbers(paths: Collection[Stack]) -> dict[Stack, tuple[NumberedPath, ...]]:
    """Return the numbers in each path and its beginnings, from the outermost on."""
    every = {path[: end + 1] for path in paths for end in range(len(path))}
    called = _called(every)
    found: dict[Stack, tuple[NumberedPath, ...]] = {(): ()}
    for path in sorted(every, key=len):
        position, part = len(path) - 1, path[-1]
        numbered = _NUMBERED.fullmatch(called.get(path, part))
        own = found[path[:-1]]
        # A bare number counts in the module before it, "layer_3" in the modules "layer" beside it.
        if numbered is not None and (position or numbered[1]):
            word = (numbered[1],) if numbered[1] else ()
            own = (*own, NumberedPath((*path[:-1], *word), int(numbered[2]), path))
        found[path] = own
    return found


def _called(paths: Iterable[Stack]) -> Mapping[Stack, str]:
    """Return the names of numbered modules without the number of their call, by their paths.

    All modules of a stack are called as often: what is behind `layer_0_1` and `layer_1_1` is no number of a layer. Of
    one that is alone, the module around it tells.
    """
    stacks: dict[tuple[Stack, str], dict[Stack, re.Match[str]]] = defaultdict(dict)
    for path in paths:
        found = _CALLED.fullmatch(path[-1])
        numbered = None if found is None else _NUMBERED.fullmatch(found[1])
        if found is not None and numbered is not None and numbered[1]:
            stacks[path[:-1], numbered[1]][path] = found
    names: dict[Stack, str] = {}
    for (around, _), stack in stacks.items():
        calls = {found[2] for found in stack.values()}
        if len(calls) == 1 and (len(stack) > 1 or (around and around[-1].endswith(f"_{min(calls)}"))):
            names |= {path: found[1] for path, found in stack.items()}
    return names


def _counting(parts: Sequence[_Part]) -> set[Stack]:
    """Return the shapes of the stacks whose numbers count layers."""
    held: dict[Stack, dict[_Module, list[_Part]]] = defaultdict(lambda: defaultdict(list))
    last: dict[Stack, int] = {}
    runs: Counter[Stack] = Counter()
    for part in parts:
        for place in part.numbers:
            runs[place.stack] += last.get(place.stack, place.number) > place.number
            last[place.stack] = place.number
            held[place.shape][_Module(place.stack, place.number, runs[place.stack])].append(part)
    begins = any(part.begins for part in parts)
    together, alone = set(), []
    for shape, numbered in held.items():
        beginning = [[not begins or part.begins for part in found] for found in numbered.values()]
        if _is_one_module(numbered):
            continue
        if any(len(found) > 1 and any(found) for found in beginning):
            if not any(_holds_layers(found, len(shape), begins) for found in numbered.values()):
                together.add(shape)
        elif all(map(any, beginning)) or _is_spoken(shape):
            alone.append(shape)
    # Without a number that holds several sites, the outermost one that holds attention is the layer's.
    outer = {
        shape for shape in together if not any(shape[: len(other)] == other != shape for other in together)
    }
    return outer or set(sorted(alone, key=len)[:1])


def _is_spoken(stack: Stack) -> bool:
    """Return whether a stack is called as layers are: "layers", or "mixer_layer"."""
    return bool(stack) and re.split(r"[_-]", stack[-1])[-1] in _SPOKEN


def _holds_layers(parts: Sequence[_Part], depth: int, attends: bool) -> bool:
    """Return whether sites of one number are several layers: an attention follows a block, under a number of its own.

    Numbers of which some hold no attention are those of sublayers, unless they are called as layers are.

    Args:
        attends: whether the model has attention; else each site with a number of its own, in a stack, is a layer.
    """
    shapes = {place.shape for part in parts for place in part.numbers if len(place.stack) > depth}

    def numbers(part: _Part, shape: Stack) -> set[NumberedPath]:
        return {place for place in part.numbers if place.shape == shape}

    def layers(shape: Stack) -> list[_Part]:
        """Return the sites that begin the layers of a stack, none where its numbers count none."""
        own = [
            part
            for part in parts
            if numbers(part, shape) or not any(place.shape in shapes for place in part.numbers)
        ]
        some = groupby(own, lambda part: part.begins if attends else part)
        # A decoder's layer has two attentions in a row, under one number.
        runs = [list(run) for begins, run in some if begins]
        counted = [set[NumberedPath]().union(*(numbers(part, shape) for part in run)) for run in runs]
        known = set[NumberedPath]().union(*counted)
        is_whole = _is_spoken(shape) or known.issuperset(
            place for part in own for place in numbers(part, shape)
        )
        first = [part for run in runs for part in run]
        is_told = sum(map(len, counted)) == len(known) and all(numbers(part, shape) for part in first)
        return first if len(runs) > 1 and is_told and is_whole else []

    # An encoder and a decoder are two stacks, of whose sites any may come first.
    found = {part.site for shape in shapes if attends or _is_spoken(shape) for part in layers(shape)}
    return bool(found) and all(part.site in found for part in parts if part.begins or not attends)


def _is_one_module(numbered: Mapping[_Module, Sequence[_Part]]) -> bool:
    """Return whether one module runs several times: its number is that of none of its runs, nor are those of calls."""
    weights = [
        [
            frozenset(
                value for item in part.site.projections if (value := stored_behind(item.operand)) is not None
            )
            for part in found
        ]
        for found in numbered.values()
    ]
    if len(numbered) == 1:
        (own,) = weights
        return len(own) > len(set(own))
    if not all(module.stack and _NUMBERED.fullmatch(module.stack[-1]) for module in numbered):
        return False
    sets = {frozenset().union(*own) for own in weights}
    return len(sets) == 1 and sets != {frozenset()}


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
