"""Projections, the nodes that sum over the units of a site, and the names that sites have from their module paths."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, TypeVar

import numpy as np

from onnxheadprune.attention.sites.products import Summed
from onnxheadprune.edit.edits import Edit, SetAttribute, SetDim
from onnxheadprune.liveness.index_notation import contraction_of
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.packed_blocks import (
    cut_inputs,
    is_packed,
    packed_together,
    share_blocks,
    why_not_cut,
)
from onnxheadprune.liveness.sweep_result import Seed
from onnxheadprune.model.graph.view import Node, Scope, Value
from onnxheadprune.model.graph.walks import stored_behind


@dataclass(frozen=True, eq=False)
class Projection:
    """The node that sums over the units of a site, heads or neurons: a contraction with weights."""

    node: Node  # the contraction
    # index of the input with the units (a context), and its contracted axes
    activation: tuple[int, tuple[int, ...]]
    # input index of the weight, and its contracted axes in the same order; None of a router, which sums nothing
    weight: tuple[int, tuple[int, ...]] | None
    # lengths of the contracted axes (usually one: num_heads * head_size, or the neurons)
    sizes: tuple[int, ...]
    # for each unit, the row-major positions on the contracted axes that belong to it
    channels: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, read: Summed, channels: tuple[tuple[int, ...], ...]) -> Projection:
        """A linear layer with the channels of each unit."""
        return cls(read.node, read.activation, read.weight, read.sizes, channels)

    @property
    def sums_more(self) -> bool:
        """True if it also sums over channels of no unit: a parallel feed-forward block."""
        return sum(len(channels) for channels in self.channels) < math.prod(self.sizes)

    @property
    def context(self) -> tuple[Value, tuple[int, ...]]:
        """The value that carries the units, and its axes along which they lie."""
        index, axes = self.activation
        value = self.node.inputs[index]
        assert value is not None
        return value, axes

    @property
    def operand(self) -> Value | None:
        """The weight, None where there is none."""
        return None if self.weight is None else self.node.inputs[self.weight[0]]

    def is_emptied_by(self, units: Iterable[int]) -> bool:
        """Return whether it sums over nothing once `units` are removed."""
        return not self.live_without(units).any()

    def live_without(self, units: Iterable[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Mask over the contracted axes with the channels of `units` dead."""
        mask = np.ones(math.prod(self.sizes), dtype=bool)
        mask[[position for unit in units for position in self.channels[unit]]] = False
        return mask.reshape(self.sizes)

    def spread(
        self, mask: np.ndarray[Any, np.dtype[np.bool_]], rank: int
    ) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """A mask over the contracted axes, with an axis for each axis of what is read, of size 1 if not contracted."""
        axes = self.activation[1]
        sizes = dict(zip(axes, self.sizes, strict=True))
        return mask.transpose(np.argsort(axes)).reshape([sizes.get(axis, 1) for axis in range(rank)])

    def gathered(self, spread: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
        """Numbers along the axes of what is read, one for each channel, [channels]: the inverse of `spread`."""
        axes = self.activation[1]
        order = np.argsort(axes)
        sizes = np.array(self.sizes)[order]
        return spread.reshape(sizes).transpose(np.argsort(order)).reshape(-1)

    def seeds(self, units: Iterable[int], site: str) -> Iterator[Seed]:
        """The demands that removing `units` leaves on the operands (none at all if no unit is left)."""
        mask = self.live_without(units)
        index, axes = self.activation
        yield Seed(self.node, index, Live.over(axes, mask), site)
        if is_packed(self.node):
            for index, live in cut_inputs(self.node, mask.reshape(-1)):
                yield Seed(self.node, index, live, site)
            return
        if self.weight is not None:
            index, axes = self.weight
            yield Seed(self.node, index, Live.over(axes, mask), site)

    def edits(self, units: Iterable[int]) -> list[Edit]:
        """Edits on the projection itself: the width of packed weights, a declared output."""
        mask = self.live_without(units)
        if is_packed(self.node):
            return [SetAttribute(self.node.ref, "K", int(mask.sum()))]
        edits: list[Edit] = []
        found = contraction_of(self.node) if mask.any() else None
        letters = () if found is None else found.axes_of(self.activation[0])
        for position, axis in enumerate(self.activation[1]):
            # The output still has a summed axis where the next node sums it.
            if found is not None and letters[axis] in found.out_axes:
                others = tuple(other for other in range(mask.ndim) if other != position)
                left = int(np.count_nonzero(mask.any(axis=others)))
                out_axis = found.out_axes.index(str(letters[axis]))
                edits.append(SetDim(self.node.scope.ref, self.node.out.name, out_axis, left))
        return edits

    def packed_together(self) -> Iterator[set[int]]:
        """Units that share blocks of a packed weight, so they can only be removed together."""
        return packed_together(self.node, self.channels) if is_packed(self.node) else iter(())

    @property
    def shared_parts(self) -> str:
        """The parts of a packed weight that such units share."""
        bytes_alone = is_packed(self.node) and not share_blocks(self.node, self.channels)
        return f"{'bytes of zero points' if bytes_alone else 'blocks'} of its packed projection"

    def why_not_cut(self, sets: Iterable[Sequence[int]]) -> str | None:
        """Return why some of these sets of units cannot be cut off the weight, None if each can."""
        if not is_packed(self.node):
            return None
        masks = (self.live_without(unit).reshape(-1) for unit in sets)
        return next((reason for mask in masks if (reason := why_not_cut(self.node, mask))), None)


def emptied(losing: Iterable[tuple[Projection, Iterable[int]]]) -> frozenset[Node]:
    """Return the nodes that sum over nothing once projections lose units; several may be one node."""
    left: dict[Node, np.ndarray[Any, np.dtype[np.bool_]]] = {}
    for item, units in losing:
        left[item.node] = item.live_without(units) & left.get(item.node, np.True_)
    return frozenset(node for node, alive in left.items() if not alive.any())


SCOPES = "pkg.torch.onnx.name_scopes"
_Item = TypeVar("_Item")
GENERIC = re.compile(r"^(node_|n\d|val_|Mat[mM]ul|Gemm|Einsum|Conv|_|onnx::|\d)")


def named_apart(blocks: Iterable[tuple[Sequence[Projection], Sequence[Node]]], kind: str) -> list[str]:
    """One name per block, the common path of its nodes; equal names get a running number.

    Args:
        kind: the name, with a number, for blocks whose nodes have no names.
    """
    every = list(blocks)
    first = next((node for some, makers in every for node in (*(item.node for item in some), *makers)), None)
    scopes = first is not None and _scopes_decide(first.scope.root)
    names = [
        _name(*block, scopes) or _name_behind(block[0]) or f"{kind}_{index}"
        for index, block in enumerate(every)
    ]
    counts = Counter(names)
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if counts[name] == 1 else f"{name}#{seen[name]}")
    return unique


def _name(projections: Sequence[Projection], makers: Sequence[Node], scopes: bool) -> str:
    """The path that the known paths of all nodes begin with."""
    paths = [
        *(_projection_path(projection, scopes) for projection in projections),
        *map(module_path, makers),
    ]
    known = [path for path in paths if path]
    if not known:
        return ""
    common = known[0]
    for path in known[1:]:
        common = [*common_prefix([tuple(common), tuple(path)])] or common
    if len(known) == 1 and len(common) > 1 and projections:
        common = common[:-1]  # the module of the layer itself
    return ".".join(common)


def common_prefix(paths: Iterable[tuple[_Item, ...]]) -> tuple[_Item, ...]:
    """Return the longest common prefix of some module paths, or other sequences."""
    pieces = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return tuple(parts[0] for parts in pieces)


def module_path(node: Node) -> list[str]:
    """The path of the module that a node came from, without the operator itself."""
    for entry in node.proto.metadata_props:
        if entry.key == SCOPES:
            scopes = [part.strip(" '\"") for part in entry.value.strip("[]").split(",")]
            modules = [scope for scope in scopes[:-1] if scope]
            return modules[-1].split(".") if modules else []
    name = node.proto.name.strip("/")
    if "/" in name:
        steps: list[str] = []
        for step in name.split("/")[:-1]:
            # TorchScript repeats the path of a Sequential in the names of its modules: "blocks/blocks.0".
            if steps and step.startswith(f"{steps[-1]}."):
                steps.pop()
            steps.append(step)
        return [part for step in steps for part in step.split(".")]
    if "." in name and not GENERIC.match(name):
        return name.split(".")[:-1]
    return []


def node_path(node: Node) -> list[str]:
    """The path of the module that a node came from; where its name has none, that of a weight that it alone reads."""
    first, *rest = module_path(node) or weight_path(node) or [""]
    # Many writers put the operator in front of what it computes: "Add_layer0.sum".
    return [part for part in (first.removeprefix(f"{node.op_type}_"), *rest) if part]


def weight_path(node: Node) -> list[str]:
    """The path in the name of a stored tensor that a node alone reads."""
    stored = (value for value in node.sources if value.is_constant and len(value.consumers) == 1)
    return next(filter(None, map(_stored_path, stored)), [])


def _name_behind(projections: Sequence[Projection]) -> str:
    """The path of the first node with one that alone reads what projections without paths give.

    tf2onnx spells an einsum as nodes that it numbers; the bias behind it, or the residual sum, has its module's name.
    """
    nodes = [item.node for item in projections]
    while nodes and not any(map(module_path, nodes)):
        alone = [(node, node.readers[0]) for node in nodes if len(node.readers) == 1]
        nodes = [reader for node, reader in alone if reader.index > node.index]
    return ".".join(next(filter(None, map(module_path, nodes)), []))


def _projection_path(projection: Projection, scopes: bool) -> list[str]:
    """The path of a projection's module, in the name of its weight; else, or if `scopes`, of its node."""
    module, stored = module_path(projection.node), _stored_path(projection.operand)
    return module if not stored or (module and scopes) else stored


def _stored_path(weight: Value | None) -> list[str]:
    """The path in the name of a stored weight, without its last part."""
    stored = stored_behind(weight)
    name = stored.name if stored is not None and stored.is_initializer else ""
    if "." in name and not GENERIC.match(name):
        return re.sub(r"\.(weight|kernel|bias)(_.*)?$", "", name).split(".")
    return []


def _scopes_decide(main: Scope) -> bool:
    """Return whether stored weights and scopes of nodes are named in two vocabularies, so that scopes alone name sites.

    TorchScript calls the module "encoders.0" of a Sequential "encoders.encoders.0" in scopes: a common beginning of
    both paths would be no module. A weight that several nodes share has the name of one of their modules.
    """
    for node in main.nodes:
        for value in node.inputs[1:2] if contraction_of(node) is not None else ():
            stored = _stored_path(value)
            module = module_path(node) if stored else []
            shared = value is not None and len(value.consumers) > 1
            if (
                module
                and not shared
                and any(one != other for one, other in zip(stored, module, strict=False))
            ):
                return True
    return False
