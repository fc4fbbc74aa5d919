"""`PrunePlan`: everything that will change, before anything does. Immutable, printable, written as JSON."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from onnx import AttributeProto, GraphProto, ModelProto

from onnxheadprune.display.spelling import read_ranges, spelled
from onnxheadprune.edit.edits import EdgeGather, Edit, edit_document
from onnxheadprune.edit.records import HEADS, MAX_UNITS, RecordedVocabulary
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.typed_json import JsonObject, Size, written

HEADS_KEY = "attn."
"""The optional prefix of keys of attention sites, which people always see."""
HEADS_KIND = (HEADS, "attention block")


ALWAYS = ("neurons",)
"""Kinds whose list is in every plan, be it empty."""


@one_line("key name removed num_units")
@dataclass(frozen=True, kw_only=True)
class SiteCut(JsonObject):
    """The cut of one site; units are indices of the original, unpruned model.

    Attributes:
        number: its position among the sites of its kind in the original.
        name: module path, as far as the original told it.
        num_units: units in the original: query heads of an attention site.
        removed: the units that are removed.
        removed_before: those that an earlier cut removed.
        key: the site's key in a spec.
        kind: the names of its units, and of sites of its kind: ("neurons", "feed-forward block").
        kv_num_heads: key/value heads in the original, of an attention site.
        kv_removed: key/value heads that are removed.
    """

    number: int
    name: str
    num_units: int
    removed: tuple[int, ...]
    removed_before: tuple[int, ...] = ()
    key: str
    kind: tuple[str, str] = HEADS_KIND
    kv_num_heads: int = 0
    kv_removed: int = 0

    @property
    def units(self) -> str:
        """The name of the units, in the plural."""
        return self.kind[0]

    @property
    def called(self) -> str:
        """The site's name in messages, tables and pages."""
        return f"{HEADS_KEY}{self.key}" if self.units == HEADS else self.key

    @property
    def left(self) -> int:
        """Units that remain."""
        return self.num_units - len(self.removed) - len(self.removed_before)

    @property
    def index(self) -> int:
        """The position of an attention site among those of the original."""
        return self.number

    @property
    def num_heads(self) -> int:
        """Query heads in the original."""
        return self.num_units

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data: of heads their indices, of units of which there may be many thousands ranges."""
        are_heads = self.units == HEADS
        listed: Callable[[Sequence[int]], Any] = list if are_heads else spelled
        site = (
            {"index": self.number, "kv_num_heads": self.kv_num_heads, "kv_removed": self.kv_removed}
            if are_heads
            else {"site": self.kind[1], "key": self.key, "number": self.number}
        )
        return site | {
            "name": self.name,
            f"num_{self.units}": self.num_units,
            "removed": listed(self.removed),
            "removed_before": listed(self.removed_before),
            f"{self.units}_left": self.left,
        }


def by_units(cuts: Iterable[SiteCut]) -> dict[str, list[dict[str, Any]]]:
    """The cuts of sites of other kinds as JSON-ready data, a list for each kind."""
    lists: dict[str, list[dict[str, Any]]] = {units: [] for units in ALWAYS}
    for cut in cuts:
        lists.setdefault(cut.units, []).append(cut.to_dict())
    return lists


def other_cuts(plan: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], int, int]]:
    """Yield the cuts of sites without heads in the document of a plan: (units, cut, removed, left)."""
    for units in plan["kinds"]:
        for cut in plan[units]:
            yield units, cut, len(read_ranges(cut["removed"], MAX_UNITS)), cut[f"{units}_left"]


def counts_in(plan: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Yield removed and remaining units of sites without heads in the document of a plan."""
    return ((units, lost, left) for units, _, lost, left in other_cuts(plan))


def totals(counts: Iterable[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Removed and remaining units of each kind that loses some, summed over sites: (units, removed, left)."""
    found: dict[str, tuple[int, int]] = {}
    for units, lost, left in counts:
        gone, stay = found.get(units, (0, 0))
        found[units] = gone + lost, stay + left
    return [(units, lost, left) for units, (lost, left) in found.items() if lost]


FORMAT = 1
Role: TypeAlias = Literal["input", "output"]


@one_line()
@dataclass(frozen=True)
class PlannedEdit(JsonObject):
    """An edit and the names of the sites that asked for it."""

    edit: Edit
    sites: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data: the fields of the edit, and the sites."""
        return {**edit_document(self.edit), "sites": list(self.sites)}


@dataclass(frozen=True)
class LeftOutNode:
    """A product of attention weights and values around which no site was found, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class IoChange:
    """One axis of a graph input or output that gets another length, or the removal of the whole."""

    role: Role  # "input" or "output"
    name: str  # of the input or output
    axis: Size | None  # counted from 0; None where the change is about the whole input or output
    # its length in the original, text where that is symbolic; of the whole, its shape or "computed"
    before: int | str
    after: int | str  # the same in the pruned model; of the whole, "gone", "always true" or "always false"


@dataclass(frozen=True)
class RenamedIo:
    """A graph input or output that gets another name, or goes."""

    role: Role  # "input" or "output"
    name: str  # in the original
    after: str | None  # in the pruned model; None if it goes


@dataclass(frozen=True)
class ExitCut:
    """Early exits that are made permanent, before anything else is cut."""

    numbers: tuple[Size, ...]  # of the exits, in the original
    conditions: tuple[str, ...]  # names of the values that decided about them
    of: Size  # exits that the model has
    sites: Size  # attention sites that are gone with what lies after
    heads: Size  # heads of these
    elements: Size  # elements of stored tensors that are gone


@dataclass(frozen=True, kw_only=True)
class VocabularyCut(JsonObject):
    """Tokens that are removed, before anything else but what lies after an early exit."""

    outputs: tuple[str, ...]  # with a number per token
    tables: tuple[str, ...]  # stored tensors with a row or column per token
    elements: Size  # of stored tensors that are gone
    tokens: RecordedVocabulary  # the tokens that are left, and the inputs that hold them

    @property
    @written()
    def rows(self) -> int:
        """Tokens of the original."""
        return self.tokens.rows

    @property
    @written("kept")
    def left(self) -> int:
        """Tokens that are left."""
        return len(self.tokens.kept)

    @property
    @written()
    def inputs(self) -> tuple[str, ...]:
        """Inputs with token ids."""
        return self.tokens.inputs


@one_line("model cuts blocks edits elements_removed exit vocabulary io_changes")
@dataclass(frozen=True, kw_only=True)
class PrunePlan(JsonObject):
    """An ordered list of edits for one particular model.

    Attributes:
        model: name of the model file.
        fingerprint: of the graph structure the plan was made for.
        cuts: every site of the model, also those that lose nothing.
        edits: what to change, each with the sites that caused it.
        io_changes: sentences about changed graph inputs and outputs.
        elements_removed: elements that stored tensors lose.
        left_out: if the heads were asked of all sites ("*"): attention that is no site, so that it loses none.
        interface: what `io_changes` says, axis by axis.
        blocks: every site of the other kinds of which some site loses units, now or before.
        renamed: the graph inputs and outputs that go or get another name; these too are in `io_changes`.
        exit: the early exits that are made permanent first, None without; `fingerprint` and `edits` are of the model
            that has them.
        notes: what was asked for and has no effect, one sentence each.
        vocabulary: the tokens that are removed after that, None without; `edits` are of the model without them.
    """

    model: str
    fingerprint: str
    cuts: tuple[SiteCut, ...]
    blocks: tuple[SiteCut, ...] = ()
    exit: ExitCut | None = None
    vocabulary: VocabularyCut | None = None
    elements_removed: Size
    io_changes: tuple[str, ...]
    interface: tuple[IoChange, ...] = ()
    renamed: tuple[RenamedIo, ...] = ()
    left_out: tuple[LeftOutNode, ...] = ()
    notes: tuple[str, ...] = ()
    edits: tuple[PlannedEdit, ...]

    @property
    @written()
    def format(self) -> int:
        """Of its document."""
        return FORMAT

    @property
    def losing(self) -> tuple[SiteCut, ...]:
        """The cuts of the sites that lose units."""
        return tuple(cut for cut in (*self.cuts, *self.blocks) if cut.removed)

    @property
    def spec(self) -> dict[str, list[int]]:
        """The units that this plan removes, as a spec."""
        return {cut.key: list(cut.removed) for cut in self.losing}

    @property
    def called_whole(self) -> tuple[str, ...]:
        """The sites that lose their last units here, as messages name them."""
        return tuple(cut.called for cut in self.losing if not cut.left)

    @property
    def kinds(self) -> str:
        """The kinds of removed units in words: "heads", "heads and neurons", or nothing."""
        return " and ".join(dict.fromkeys(cut.units for cut in self.losing))

    def others(self) -> list[tuple[str, int, int]]:
        """For each kind beside heads that loses units: what they are called, how many go, and how many stay."""
        return totals((cut.units, len(cut.removed), cut.left) for cut in self.blocks)

    @property
    def cuts_something(self) -> bool:
        """True if any unit goes."""
        return bool(self.losing)

    @property
    def changes_something(self) -> bool:
        """True if any unit or token goes, or an exit is made permanent."""
        return self.cuts_something or self.exit is not None or self.vocabulary is not None

    @property
    def removed(self) -> dict[int, tuple[int, ...]]:
        """Heads that this plan removes, per site index."""
        return {cut.index: cut.removed for cut in self.cuts if cut.removed}

    @property
    def edge_gathers(self) -> tuple[EdgeGather, ...]:
        """Edges that need a gather at run time."""
        return tuple(item.edit for item in self.edits if isinstance(item.edit, EdgeGather))

    @written("edge_gathers")
    def _gathers(self) -> list[dict[str, Any]]:
        return list(map(edit_document, self.edge_gathers))

    @written("edit_counts")
    def counts(self) -> dict[str, int]:
        """Number of edits of each kind."""
        return dict(Counter(item.edit.kind for item in self.edits))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; the cuts of other kinds than heads are in a list for each, which `kinds` names."""
        document = super().to_dict()
        del document["blocks"]
        lists = by_units(self.blocks)
        return document | {"kinds": list(lists), **lists}

    def summary(self) -> dict[str, Any]:
        """JSON-ready data without the edits: how many there are of each kind, and those that cost time in every run."""
        document = self.to_dict()
        del document["edits"]
        (document["vocabulary"] or {}).pop("tokens", None)
        return document

    def __str__(self) -> str:
        lines = [f"plan for {self.model}"]
        if self.exit is not None:
            numbers = ", ".join(map(str, self.exit.numbers))
            lines.append(f"exit {numbers} permanent: removes {self.exit.heads} heads behind it")
        if self.vocabulary is not None:
            lines.append(f"vocabulary: {self.vocabulary.left} of {self.vocabulary.tokens.rows} tokens stay")
        lines += [
            f"{cut.called} {cut.name}: {cut.units} {spelled(cut.removed)} of {cut.num_units} go, {cut.left} stay"
            for cut in self.losing
        ]
        lines += [f"  {item.edit}" for item in self.edits]
        return "\n".join(lines)


def fingerprint(model: ModelProto) -> str:
    """A hash of the graph's structure: operators, names and tensor shapes, not the weights."""
    digest = hashlib.sha256()
    _hash_graph(model.graph, digest)
    return digest.hexdigest()[:16]


def _hash_graph(graph: GraphProto, digest: Any) -> None:
    for tensor in graph.initializer:
        digest.update(f"{tensor.name}{tensor.data_type}{list(tensor.dims)}".encode())
    for node in graph.node:
        digest.update(f"{node.domain}{node.op_type}{list(node.input)}{list(node.output)}".encode())
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _hash_graph(attribute.g, digest)
