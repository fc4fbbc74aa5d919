"""One folder of the zoo: what its module has, and what is found in the graph."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.attention_site import AttentionSite
from onnxheadprune.attention.sites.layer_site import LayerSite


@dataclass(frozen=True)
class Counts:
    """Heads, KV heads, layers and MLPs.

    Attributes:
        heads: query heads of each attention, in order.
        kv: key/value heads of each attention; None where nothing shows which heads share them.
        layers: layers of each stack with attention, ascending; None where the module has no container of layers.
        blocks: MLPs; None where its attributes name none, or run for some of the tokens.
    """

    heads: tuple[int | None, ...] = ()
    kv: tuple[int | None, ...] = ()
    layers: tuple[int, ...] | None = None
    blocks: int | None = None


@dataclass(frozen=True)
class CountRow:
    """One folder.

    Attributes:
        case: the architecture.
        variant: the exporter and the steps after it.
        family: what the architecture is one of.
        true: what the module has.
        found: what is found; heads and KV heads of an attention that is no site are None.
        kinds: blocks by their kind.
        error: what the analysis raised.
    """

    case: str
    variant: str
    family: str
    true: Counts
    found: Counts
    kinds: Mapping[str, int] = field(default_factory=dict)
    error: str = ""

    @property
    def name(self) -> str:
        """Case and variant."""
        return f"{self.case}.{self.variant}"

    @property
    def wrong(self) -> tuple[str, ...]:
        """What is counted otherwise than in the module."""
        heads = zip(self.true.heads, self.found.heads, strict=True)
        kv = zip(self.true.kv, self.found.kv, strict=True)
        apart = {
            "heads": any(found not in (None, true) for true, found in heads),
            "kv": any(found not in (None, true) for true, found in kv),
            "layers": self.true.layers is not None and self.true.layers != self.found.layers,
            "blocks": self.true.blocks is not None and self.true.blocks != self.found.blocks,
        }
        return tuple(name for name, is_wrong in apart.items() if is_wrong)

    def to_json(self) -> str:
        """The row in one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> CountRow:
        """The inverse of `to_json`."""
        data: dict[str, Any] = json.loads(line)
        return cls(**(data | {side: _counts(data[side]) for side in ("true", "found")}))


def _counts(data: Mapping[str, Any]) -> Counts:
    layers = None if data["layers"] is None else tuple(data["layers"])
    return Counts(tuple(data["heads"]), tuple(data["kv"]), layers, data["blocks"])


def found_counts(sites: Sites, attention: Iterable[AttentionSite | None]) -> tuple[Counts, dict[str, int]]:
    """Return what is found in a graph, and its blocks by kind.

    Args:
        sites: of the graph.
        attention: the site of each attention of the module.
    """
    own = list(attention)
    stacks = Counter(
        layer.label.rpartition(".")[0]
        for layer in sites.of(LayerSite.UNITS)
        if isinstance(layer, LayerSite) and any(site.begins_layer for site in layer.parts)
    )
    kinds = Counter(block.kind for block in sites.neurons)
    counts = Counts(
        heads=tuple(None if site is None else site.num_heads for site in own),
        kv=tuple(None if site is None or not site.kv_known else site.kv_num_heads for site in own),
        layers=tuple(sorted(stacks.values())),
        blocks=kinds["feed-forward"],
    )
    return counts, dict(sorted(kinds.items()))
