"""What an attention site is: a core that produces contexts per head, and projections that sum over heads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxheadprune.edit.edits import Edit
from onnxheadprune.edit.records import RecordedSite
from onnxheadprune.liveness.blocks import cut_inputs, input_edits, is_packed, packed_together, why_not_cut
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusal import Refusal
from onnxheadprune.liveness.swept import Seed
from onnxheadprune.model.graph.view import Node, Value
from onnxheadprune.model.notebook import BAD, GOOD, Html, card, table, word
from onnxheadprune.model.spelling import count, file_name, many


@dataclass(frozen=True, eq=False)
class Projection:
    """One contraction with weights that sums over the heads of a site.

    Attributes:
        node: the contraction.
        activation: input index of the context, and its contracted axes.
        weight: input index of the weight, and its contracted axes in the same order.
        sizes: lengths of the contracted axes (usually one, num_heads * head_size).
        channels: for each head, the row-major positions on the contracted axes that belong to it.
    """

    node: Node
    activation: tuple[int, tuple[int, ...]]
    weight: tuple[int, tuple[int, ...]]
    sizes: tuple[int, ...]
    channels: tuple[tuple[int, ...], ...]

    @property
    def sums_more(self) -> bool:
        """Whether it also sums over what is no head's: a feed-forward block beside the attention."""
        return sum(len(channels) for channels in self.channels) < math.prod(self.sizes)

    def is_emptied_by(self, heads: Iterable[int]) -> bool:
        """Whether it sums over nothing once `heads` are gone, be they all heads of the site or those that it reads."""
        return not self.live_without(heads).any()

    def live_without(self, heads: Iterable[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Mask over the contracted axes with the channels of `heads` dead."""
        mask = np.ones(math.prod(self.sizes), dtype=bool)
        for head in heads:
            mask[list(self.channels[head])] = False
        return mask.reshape(self.sizes)

    def seeds(self, heads: Iterable[int], site: str) -> Iterator[Seed]:
        """The demands that removing `heads` leaves on the operands (none at all if no head is left)."""
        mask = self.live_without(heads)
        index, axes = self.activation
        yield Seed(self.node, index, Live.over(axes, mask), site)
        if is_packed(self.node):
            for index, live in cut_inputs(self.node, mask.reshape(-1)):
                yield Seed(self.node, index, live, site)
            return
        index, axes = self.weight
        yield Seed(self.node, index, Live.over(axes, mask), site)

    def edits(self, heads: Iterable[int]) -> list[Edit]:
        """Edits on the projection itself (a packed weight states its width in an attribute)."""
        return input_edits(self.node, self.live_without(heads).reshape(-1)) if is_packed(self.node) else []

    def packed_together(self) -> Iterator[set[int]]:
        """Heads that share blocks of a packed weight, so that one cannot go without the other."""
        return packed_together(self.node, self.channels) if is_packed(self.node) else iter(())

    def why_not_cut(self, units: Iterable[Sequence[int]]) -> str | None:
        """Why some of these sets of heads cannot be cut off the weight, None if each can."""
        if not is_packed(self.node):
            return None
        masks = (self.live_without(unit).reshape(-1) for unit in units)
        return next((reason for mask in masks if (reason := why_not_cut(self.node, mask))), None)


@dataclass(frozen=True, eq=False)
class AttentionSite:
    """One attention block.

    Attributes:
        index: position in graph order of the cores; stable when the model is pruned.
        name: module path, as far as the model still tells it.
        kind: "mha", "gqa" or "mqa".
        num_heads: query heads.
        kv_num_heads: key/value heads.
        head_size: width of a query or key head, None where the core has no such product.
        v_head_size: width of a context head.
        groups: the query heads that share each KV head.
        units: the heads that can only go together, because a projection packs them in one block; else each alone.
        projections: the contractions that sum over the heads.
        cores: the nodes that produce the contexts.
        free: graph inputs and outputs that hold this site's keys and values (the cache).
        maps: graph outputs with one attention map per head, which only shrink with the caller's consent.
        reason: why no head can be removed, None if some can.
        params: elements of all weights and biases that belong to the heads.
        bytes: their size in bytes.
        flops_per_token: multiply-adds x 2 in the projections, without the part that grows with the sequence.
        removed: heads that an earlier pruning removed (indices of the original model).
        original_num_heads: query heads before any pruning.
        original_kv_num_heads: key/value heads before any pruning.
    """

    index: int
    name: str
    kind: str
    num_heads: int
    kv_num_heads: int
    head_size: int | None
    v_head_size: int
    groups: tuple[tuple[int, ...], ...]
    projections: tuple[Projection, ...]
    cores: tuple[Node, ...]
    units: tuple[tuple[int, ...], ...] = ()
    free: frozenset[Value] = frozenset()
    maps: frozenset[Value] = frozenset()
    reason: Refusal | None = None
    params: int = 0
    bytes: int = 0
    flops_per_token: int = 0
    removed: tuple[int, ...] = ()
    original_num_heads: int = 0
    original_kv_num_heads: int = 0

    @property
    def removable(self) -> bool:
        """Whether heads can be removed exactly."""
        return self.reason is None

    @property
    def projection_names(self) -> tuple[str, ...]:
        """Names of what the projections give: what the site is known by when the model is pruned."""
        outputs = (projection.node.outputs[0] for projection in self.projections)
        return tuple(value.name for value in outputs if value is not None)

    @property
    def original_heads(self) -> tuple[int, ...]:
        """The original model's index of each present head."""
        gone = set(self.removed)
        return tuple(head for head in range(self.original_num_heads) if head not in gone)

    def present(self, heads: Iterable[int]) -> tuple[int, ...]:
        """The present index of each head that is named by its index in the original model."""
        names = self.original_heads
        return tuple(names.index(head) for head in heads)

    def original(self, heads: Iterable[int]) -> tuple[int, ...]:
        """The index in the original model of each head that is named by its present one."""
        names = self.original_heads
        return tuple(names[head] for head in heads)

    def seeds(self, heads: Iterable[int], emptied: bool = True) -> Iterator[Seed]:
        """The first demands of the sweep when `heads` (present indices) are removed.

        Args:
            heads: what goes.
            emptied: whether projections that then sum over nothing demand nothing; else they say nothing.
        """
        heads = tuple(heads)
        for projection in self.projections:
            if emptied or not projection.is_emptied_by(heads):
                yield from projection.seeds(heads, self.name)

    def to_dict(self) -> dict[str, Any]:
        """The site as JSON-ready data (the contract of `inspect --json`)."""
        return {
            "index": self.index,
            "name": self.name,
            "kind": self.kind,
            "core": self.cores[0].op_type,
            "num_heads": self.num_heads,
            "kv_num_heads": self.kv_num_heads,
            "head_size": self.head_size,
            "v_head_size": self.v_head_size,
            "removable": self.removable,
            "reason": None if self.reason is None else str(self.reason),
            "params": self.params,
            "bytes": self.bytes,
            "flops_per_token": self.flops_per_token,
            "removed": list(self.removed),
            "projections": [projection.node.proto.name for projection in self.projections],
        }


def united(heads: Iterable[int], units: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Some heads, and all that can only go with them."""
    asked = set(heads)
    return tuple(sorted(asked.union(*(unit for unit in units if asked & set(unit)))))


@dataclass(frozen=True)
class NearMiss:
    """Something that looks like attention and is no site, with the reason."""

    node: str
    reason: Refusal

    def to_dict(self) -> dict[str, str]:
        """The near miss as JSON-ready data."""
        return {"node": self.node, "reason": self.reason.sentence}


@dataclass(frozen=True)
class Sites(Sequence[AttentionSite]):
    """All sites of a model in order of their index, and what attends without being one.

    Each product of attention weights and values is in one of the three.

    Attributes:
        model: name of the model.
        sites: what `[]`, `len` and iteration give.
        near_misses: attention with heads that cannot be told apart or cut, with the reasons.
        no_heads: attention in which no axis can enumerate heads.
        record: what earlier pruning wrote about the sites of the original, nothing for a model that was not pruned.
        elements: elements of all stored tensors of the model, None where they were not counted.
    """

    model: str
    sites: tuple[AttentionSite, ...]
    near_misses: tuple[NearMiss, ...] = field(default_factory=tuple)
    no_heads: tuple[NearMiss, ...] = field(default_factory=tuple)
    record: tuple[RecordedSite, ...] = ()
    elements: int | None = None

    def __len__(self) -> int:
        return len(self.sites)

    def __getitem__(self, index: Any) -> Any:
        return self.sites[index]

    def _repr_html_(self) -> str:
        total = sum(site.num_heads for site in self)
        columns = ("#", "site", "kind", "heads", "kv heads", "head size", "elements", "removable")
        missed = [*self.near_misses, *self.no_heads]
        return card(
            f"{file_name(self.model)}: {many(len(self), 'attention site')}, {many(total, 'head')}",
            table(columns, map(_row, self), ("#", *columns[3:7])),
            table(
                ("attention that is no site", "why"), ((miss.node, miss.reason.sentence) for miss in missed)
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """The contract of `inspect --json`."""
        return {
            "model": self.model,
            "sites": [site.to_dict() for site in self.sites],
            "near_misses": [miss.to_dict() for miss in self.near_misses],
            "no_heads": [miss.to_dict() for miss in self.no_heads],
            "elements": self.elements,
        }


def _row(site: AttentionSite) -> tuple[str | Html, ...]:
    """Cells of a table in a notebook."""
    size = site.v_head_size if site.head_size is None else site.head_size
    removable = word("yes", GOOD) if site.reason is None else word(f"no: {site.reason.sentence}", BAD)
    counts = (str(site.num_heads), str(site.kv_num_heads), str(size), count(site.params))
    return str(site.index), site.name, site.kind, *counts, removable
