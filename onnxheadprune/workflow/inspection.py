"""All that `inspect` reports on a model: its sites, layers, early exits and vocabularies, with their shares of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, cast

from onnx import ModelProto

from onnxheadprune.attention.exits import Exit, Exits, exits_of, leaving_from, settled
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.find import Analysis, analysis_of
from onnxheadprune.attention.sites.layers import LayerSite
from onnxheadprune.attention.sites.stored_weights import weights_in
from onnxheadprune.attention.vocabulary.find import vocabularies
from onnxheadprune.attention.vocabulary.logits import Vocabulary
from onnxheadprune.benchmarking.flops import Flops, concrete_view, node_flops
from onnxheadprune.display.displayed import Displayed
from onnxheadprune.display.facts import Fact, Facts, Part, Table
from onnxheadprune.display.spelling import count, many, share, size
from onnxheadprune.edit.bodies import decided
from onnxheadprune.errors import UsageError
from onnxheadprune.model.analysis_errors import NotAnalysed, analysing, try_analysis
from onnxheadprune.model.bodies import has_bodies
from onnxheadprune.model.load import LoadedModel, ModelLike, open_structure
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.storage.tensors import stored_size
from onnxheadprune.model.typed_json import JsonObject
from onnxheadprune.model.work_bound import bounded_work
from onnxheadprune.runtime.feeds.generate import Case, Feed, FeedMaker
from onnxheadprune.runtime.loading import why_not_loaded
from onnxheadprune.settings.units import LAYER, SCORED

USUAL = Case(1, 128, 0)
"""The inputs that operations are counted for."""
MOST_TRIES = 6
"""Sizes that are tried until a model's shapes follow from them; images and audio need larger ones than text."""
MOST_NODES = 10_000
"""Of graphs whose operations are counted, which takes as long as all else that `inspect` does."""


@dataclass(frozen=True)
class LayerSummary(JsonObject):
    """One layer, as in `--layers`."""

    key: str  # its number, after the name of its stack where a model has several: "3", "encoder.3"
    name: str  # its module path, or "layer_3" where that is unknown
    # keys of its attention sites and feed-forward blocks ("attn.3", "ffn.3"), in graph order
    sites: tuple[str, ...]
    lacks: tuple[str, ...]  # blocks of other layers that this layer lacks: "feed-forward block"
    params: int  # weights and biases that only it needs
    params_share: float  # of all stored elements of the model, packed ones counted as weights
    # the share of all operations in its nodes; None where that cannot be counted, or the graph has more
    # than `MOST_NODES`
    operations_share: float | None
    reason: str | None = None  # why the layer cannot be removed as a whole, None if it can

    @classmethod
    def every(cls, analysis: Analysis) -> tuple[LayerSummary, ...]:
        """Return the layers of a model, stack by stack."""
        return cls.among(analysis.sites, [analysis])

    @classmethod
    def among(cls, sites: Sites, models: Sequence[Analysis]) -> tuple[LayerSummary, ...]:
        """The same for sites that several models hold; operations are counted of one model alone."""
        found = cast(Sequence[LayerSite], sites.of(LAYER.units))
        elements = sum(weights_in(analysis.model, analysis.view) for analysis in models)
        costs = _costs(models[0]) if found and len(models) == 1 else {}
        every = {title: None for layer in found for title in _titles(layer)}
        return tuple(
            _summary(layer, [title for title in every if title not in _titles(layer)], elements, costs)
            for layer in found
        )


def _titles(layer: LayerSite) -> list[str]:
    """Return the titles of a layer's sites whose units can be selected."""
    return [kind.title for kind in (site.KIND for site in layer.parts) if kind.units in SCORED]


def _summary(layer: LayerSite, lacks: Sequence[str], elements: int, costs: Mapping[str, int]) -> LayerSummary:
    own = {node.ref for node in layer.cores}
    return LayerSummary(
        layer.short,
        layer.name,
        tuple(site.tag for site in layer.parts),
        tuple(lacks),
        layer.params,
        layer.params / elements if elements else 0.0,
        sum(cost for ref, cost in costs.items() if ref in own) / sum(costs.values()) if costs else None,
        None if layer.reason is None else layer.reason.sentence,
    )


def _costs(analysis: Analysis) -> dict[str, int]:
    """Return the operations of each node by its reference, empty where they cannot be counted."""
    if len(analysis.view.nodes) > MOST_NODES:
        return {}
    try:
        feeds = islice(FeedMaker(analysis.view).candidates(USUAL), MOST_TRIES)
        for feed, _ in feeds:
            counted = node_flops(concrete_view(analysis.model, feed))
            costs = {node.ref: cost for node, cost in counted.items() if cost is not None and cost >= 0}
            if len(costs) == len(counted) and any(costs.values()):
                return costs
    except UsageError:
        # No inputs of this model can be made up.
        pass
    return {}


@one_line("number node sites heads heads_share elements_share")
@dataclass(frozen=True)
class EarlyExit:
    """One early exit, and what is removed if it is made permanent.

    Attributes:
        number: as in `--exit`; always the number in the original.
        node: the If that decides.
        condition: the value that it decides by.
        sites: indices of the attention sites after it.
        heads: the number of their heads.
        heads_share: of all heads of the model.
        elements: removed elements of stored tensors.
        elements_share: of all stored elements.
        operations_share: saved share of the operations of a run without exit; None where
            that cannot be counted.
        inputs: graph inputs that are no longer needed.
    """

    number: int
    node: str
    condition: str
    sites: tuple[int, ...]
    heads: int
    heads_share: float
    elements: int
    elements_share: float
    operations_share: float | None
    inputs: tuple[str, ...]


@one_line("exits")
@dataclass(frozen=True)
class EarlyExits(JsonObject):
    """The early exits of a model.

    Attributes:
        exits: in the order of their numbers.
        shapes: of the inputs for counting operations.
    """

    exits: tuple[EarlyExit, ...]
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, loaded: LoadedModel, analysis: Analysis) -> EarlyExits:
        """The early exits of an analysed model."""
        if not has_bodies(loaded.proto):
            return cls((), {})
        with analysing(loaded.proto, loaded.name):
            exits = exits_of(analysis.view, analysis.sites)
        if not exits.exits:
            return cls((), {})
        counting = _Counting(loaded, analysis, exits)
        found = tuple(counting.described(item) for item in exits.exits)
        return cls(found, {name: value.shape for name, value in counting.feed.items()})


LAYERS, EXITS, VOCABULARY = "layers", "early exits", "the vocabulary"
SEARCHES: Mapping[str, Callable[[LoadedModel, Analysis], Any]] = {
    LAYERS: lambda loaded, analysis: LayerSummary.every(analysis),
    EXITS: lambda loaded, analysis: EarlyExits.of(loaded, analysis),
    VOCABULARY: lambda loaded, analysis: vocabularies(analysis.view),
}
"""Searches of `inspect` beside sites, which are found by kind."""


@dataclass(frozen=True)
class Inspection(Displayed):
    """All that `inspect` reports on a model."""

    sites: Sites  # sites of all kinds
    layers: tuple[LayerSummary, ...]
    exits: EarlyExits  # its early exits
    vocabularies: tuple[Vocabulary, ...]  # its possible vocabularies
    bytes: int  # of all stored tensors
    # searches that ended in an unexpected error, so that what they look for is not known
    failed: tuple[NotAnalysed, ...]
    does_not_load: str | None  # why ONNX Runtime does not load it, None if it does

    @classmethod
    def of(cls, loaded: LoadedModel, analysis: Analysis) -> Inspection:
        """Search an analysed model; an unexpected error ends no other search."""
        stored = stored_size(loaded.proto)
        with bounded_work(loaded.proto, loaded.name):
            sites = replace(analysis.sites, elements=weights_in(loaded.proto, analysis.view))
            searched = [find() for find in sites.others.values()]
            failed = [item.failure for item in searched if item.failure is not None]
            found: dict[str, Any] = {}
            unknown = {item.what for item in failed}
            for what, search in SEARCHES.items():
                if what in unknown:
                    continue
                made = try_analysis(what, partial(search, loaded, analysis))
                if isinstance(made, NotAnalysed):
                    failed.append(made)
                else:
                    found[what] = made
        return cls(
            sites,
            found.get(LAYERS, ()),
            found.get(EXITS, EarlyExits((), {})),
            found.get(VOCABULARY, ()),
            stored.bytes,
            tuple(failed),
            why_not_loaded(loaded),
        )

    @property
    def finds_something(self) -> bool:
        """True if anything of the model can be removed, or is at least known."""
        return bool(self.sites.known or self.vocabularies)

    def facts(self) -> Facts:
        """The sites, the layers, early exits, the vocabulary, and what could not be analysed or loaded."""
        told = self.sites.facts()
        further = (
            *layer_facts(self.layers),
            *exit_facts(self.exits),
            *vocabulary_facts(self),
            *self.troubles(),
            *removable_facts(self.sites),
        )
        return replace(told, parts=(*told.parts, *further))

    def troubles(self, where: str = "") -> Iterator[Fact]:
        """Yield the searches that failed, and why it does not load."""
        front = f"{where}: " if where else ""
        yield from (Fact("not known", f"{front}{search}", "doubtful") for search in self.failed)
        if self.does_not_load is not None:
            yield Fact("loading", f"{front}does not load in ONNX Runtime: {self.does_not_load}", "doubtful")

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data: the output of `inspect --json`."""
        return self.sites.to_dict() | {
            "layers": [layer.to_dict() for layer in self.layers],
            "early_exits": self.exits.to_dict(),
            "vocabularies": [item.to_dict(self.bytes) for item in self.vocabularies],
            "not_analysed": [item.to_dict() for item in self.failed],
            "does_not_load": self.does_not_load,
        }


def layer_facts(layers: Sequence[LayerSummary]) -> Iterator[Part]:
    """Yield a table of the layers, and why some cannot be removed; nothing where there are none."""
    if not layers:
        return
    rows = []
    for layer in layers:
        held = " ".join(layer.sites) + (f" (no {', no '.join(layer.lacks)})" if layer.lacks else "")
        operations = "?" if layer.operations_share is None else share(layer.operations_share)
        rows.append((layer.key, layer.name or "-", held, share(layer.params_share), operations))
    columns = ("#", "layer", "holds", "params", "operations")
    yield Table(columns, tuple(rows), columns[3:], ("holds",), f"{many(len(layers), 'layer')} (--layers)")
    for layer in layers:
        if layer.reason is not None:
            yield Fact("layers", f"layer {layer.key} cannot be removed as a whole: {layer.reason}")


def exit_facts(exits: EarlyExits) -> Iterator[Part]:
    """Yield a table of the exits with what lies after each; nothing where there are none."""
    rows = [
        (
            str(entry.number),
            f"{entry.condition} at {entry.node}",
            f"{count(entry.heads)} ({share(entry.heads_share)})",
            share(entry.elements_share),
            "?" if entry.operations_share is None else share(entry.operations_share),
        )
        for entry in exits.exits
    ]
    if rows:
        columns = ("exit", "decided by", "heads behind", "params", "operations")
        title = f"{many(len(rows), 'early exit')} (--exit)"
        yield Table(columns, tuple(rows), columns[2:], ("decided by",), title)


def vocabulary_facts(found: Inspection) -> Iterator[Part]:
    """Yield the tensors with a row or a column per token, by the inputs that hold token ids."""
    rows = []
    for entry in (item.to_dict(found.bytes) for item in found.vocabularies):
        for held in entry["tables"]:
            sizes = count(entry["rows"]), size(held["bytes"]), share(held["share"])
            rows.append((", ".join(entry["inputs"]), held["tensor"], *sizes))
    if rows:
        columns = ("token ids", "tensor", "tokens", "size", "of weights")
        yield Table(columns, tuple(rows), columns[2:], title="vocabulary (--vocab, --vocab-size)")


def removable_facts(sites: Sites) -> Iterator[Fact]:
    """Yield how much of the model belongs to heads that can be removed."""
    held = sum(site.params for site in sites if site.removable)
    if held and sites.elements and held <= sites.elements:
        part = share(held / sites.elements)
        yield Fact(
            "removable", f"{part} of the {count(sites.elements)} stored elements belong to these heads"
        )


def find_exits(model: ModelLike) -> EarlyExits:
    """The early exits of a model, in execution order.

    An exit is an If with layers in one branch and none in the other.

    Args:
        model: a path, a `ModelProto`, a `gs.Graph` or an `onnx_ir.Model`.

    Raises:
        UsageError: if the path does not exist.
        ModelError: if the file cannot be read as an ONNX model.
    """
    loaded = open_structure(model)
    if not has_bodies(loaded.proto):
        return EarlyExits((), {})
    return EarlyExits.of(loaded, analysis_of(loaded))


class _Counting:
    def __init__(self, loaded: LoadedModel, analysis: Analysis, exits: Exits) -> None:
        self.loaded, self.analysis = loaded, analysis
        self.elements = stored_size(loaded.proto).elements
        self.heads = sum(site.num_heads for site in analysis.sites)
        self.feed = _any_feed(analysis)
        self.whole: int | None = None
        if exits.onward:
            found = settled(analysis.view, exits.onward)
            self.whole = self._operations(decided(analysis.view, found.known, found.choices).model)

    def described(self, item: Exit) -> EarlyExit:
        left = leaving_from(self.loaded, self.analysis, (item.number,))
        operations = self._operations(left.model.proto)
        saved = None
        if self.whole and operations is not None:
            saved = 1 - operations / self.whole
        return EarlyExit(
            item.number,
            item.node.label,
            item.condition,
            left.gone,
            left.cut.heads,
            left.cut.heads / self.heads if self.heads else 0.0,
            left.cut.elements,
            left.cut.elements / self.elements if self.elements else 0.0,
            saved,
            tuple(change.name for change in left.interface if change.role == "input"),
        )

    def _operations(self, model: ModelProto) -> int | None:
        """The operations of one run, None where not all can be counted."""
        names = {info.name for info in model.graph.input}
        feed = {name: array for name, array in self.feed.items() if name in names}
        found = Flops.of(concrete_view(model, feed))
        return None if found.uncounted else found.total


def _any_feed(analysis: Analysis) -> Feed:
    """Random inputs of the usual size; empty where none can be generated."""
    try:
        maker = FeedMaker(analysis.view)
        return next((feed for case in maker.cases for feed, _ in maker.candidates(case)), {})
    except UsageError:
        return {}
