"""`PrunePlan`: everything that will change, before anything does. Immutable, printable, JSON both ways."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from onnx import AttributeProto, GraphProto, ModelProto

from onnxheadprune.edit.edits import EdgeGather, Edit, edit_from_dict
from onnxheadprune.edit.site_cuts import ALWAYS, BlockCut, SiteCut, block_cuts_of, totals
from onnxheadprune.errors import UsageError
from onnxheadprune.model.display import one_line
from onnxheadprune.model.spelling import spelled

if TYPE_CHECKING:
    from onnxheadprune.edit.model_records import VocabularyCut

FORMAT = 1


@one_line()
@dataclass(frozen=True)
class PlannedEdit:
    """An edit and the names of the sites that asked for it."""

    edit: Edit
    sites: tuple[str, ...]


@dataclass(frozen=True)
class LeftOutNode:
    """A product of attention weights and values around which no site was found, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class IoChange:
    """One axis of a graph input or output that gets another length, or what becomes of all of it."""

    role: str  # "input" or "output"
    name: str  # of the input or output
    axis: int | None  # counted from 0; None where the change is about the whole input or output
    # its length in the original, text where that is symbolic; of the whole, its shape or "computed"
    before: int | str
    after: int | str  # the same in the pruned model; of the whole, "gone", "always true" or "always false"


@dataclass(frozen=True)
class RenamedIo:
    """A graph input or output that gets another name, or goes."""

    role: str  # "input" or "output"
    name: str  # in the original
    after: str | None  # in the pruned model; None if it goes


@dataclass(frozen=True)
class ExitCut:
    """Early exits that are made permanent, before anything else is cut."""

    numbers: tuple[int, ...]  # of the exits, in the original
    conditions: tuple[str, ...]  # names of the values that decided about them
    of: int  # exits that the model has
    sites: int  # attention sites that are gone with what lies after
    heads: int  # heads of these
    elements: int  # elements of stored tensors that are gone

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ExitCut:
        """The inverse of `dataclasses.asdict`."""
        return cls(
            tuple(data["numbers"]),
            tuple(data["conditions"]),
            data["of"],
            data["sites"],
            data["heads"],
            data["elements"],
        )


@one_line("model cuts blocks edits elements_removed exit vocabulary io_changes")
@dataclass(frozen=True)
class PrunePlan:
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
        layers: keys of the layers that are removed as a whole.
    """

    model: str
    fingerprint: str
    cuts: tuple[SiteCut, ...]
    edits: tuple[PlannedEdit, ...]
    io_changes: tuple[str, ...]
    elements_removed: int
    left_out: tuple[LeftOutNode, ...] = ()
    interface: tuple[IoChange, ...] = ()
    blocks: tuple[BlockCut, ...] = ()
    renamed: tuple[RenamedIo, ...] = ()
    exit: ExitCut | None = None
    notes: tuple[str, ...] = ()
    vocabulary: VocabularyCut | None = None
    layers: tuple[str, ...] = ()

    @property
    def losing(self) -> tuple[SiteCut | BlockCut, ...]:
        """The cuts of the sites that lose units."""
        cuts: tuple[SiteCut | BlockCut, ...] = (*self.cuts, *self.blocks)
        return tuple(cut for cut in cuts if cut.removed)

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
        return totals(self.blocks)

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

    def counts(self) -> dict[str, int]:
        """Number of edits of each kind."""
        return dict(Counter(item.edit.kind for item in self.edits))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, from which `from_dict` makes the plan again."""
        edits = [{**_edit_to_dict(item.edit), "sites": list(item.sites)} for item in self.edits]
        tokens = {} if self.vocabulary is None else {"vocabulary": self.vocabulary.to_dict()}
        return self.summary() | tokens | {"edits": edits}

    def summary(self) -> dict[str, Any]:
        """JSON-ready data without the edits: how many there are of each kind, and those that cost time in every run."""
        return {
            "format": FORMAT,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "cuts": [cut.to_dict() for cut in self.cuts],
            **_by_units(self.blocks),
            "exit": None if self.exit is None else asdict(self.exit),
            "vocabulary": None if self.vocabulary is None else self.vocabulary.summary(),
            "elements_removed": self.elements_removed,
            "io_changes": list(self.io_changes),
            "interface": [asdict(change) for change in self.interface],
            "renamed": [asdict(change) for change in self.renamed],
            "left_out": [{"node": item.node, "reason": item.reason} for item in self.left_out],
            "notes": list(self.notes),
            "layers": list(self.layers),
            "edge_gathers": [_edit_to_dict(gather) for gather in self.edge_gathers],
            "edit_counts": self.counts(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PrunePlan:
        """The inverse of `to_dict`.

        Raises:
            UsageError: if the data is no plan of this version's format.
        """
        if data.get("format") != FORMAT or "edits" not in data:
            raise UsageError(f"this is not a pruning plan of format {FORMAT}")
        edits = tuple(
            PlannedEdit(
                edit_from_dict({key: value for key, value in item.items() if key != "sites"}),
                tuple(item["sites"]),
            )
            for item in data["edits"]
        )
        changes = tuple(data["io_changes"])
        # Plans of earlier versions do not say.
        missed = tuple(LeftOutNode(item["node"], item["reason"]) for item in data.get("left_out", ()))
        interface = tuple(IoChange(**item) for item in data.get("interface", ()))
        renamed = tuple(RenamedIo(**item) for item in data.get("renamed", ()))
        leaves, tokens = data.get("exit"), data.get("vocabulary")
        return cls(
            data["model"],
            data["fingerprint"],
            tuple(map(SiteCut.from_dict, data["cuts"])),
            edits,
            changes,
            data["elements_removed"],
            missed,
            interface,
            block_cuts_of(data),
            renamed,
            None if leaves is None else ExitCut.from_dict(leaves),
            tuple(data.get("notes", ())),
            None if tokens is None else _vocabulary_cut(tokens),
            tuple(data.get("layers", ())),
        )

    def to_json(self) -> str:
        """The plan as a JSON document."""
        return json.dumps(self.to_dict(), indent=2)

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


def _vocabulary_cut(data: Mapping[str, Any]) -> VocabularyCut:
    from onnxheadprune.edit.model_records import VocabularyCut

    return VocabularyCut.from_dict(data)


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


def _edit_to_dict(edit: Edit) -> dict[str, Any]:
    """The edit as JSON-ready data with its `kind`."""
    return {"edit": edit.kind, **dataclasses.asdict(edit)}


def _by_units(cuts: Iterable[BlockCut]) -> dict[str, Any]:
    """The cuts of other kinds as JSON-ready data: a list for each kind, and the names of these lists."""
    found: dict[str, list[dict[str, Any]]] = {units: [] for units in ALWAYS}
    for cut in cuts:
        found.setdefault(cut.units, []).append(cut.to_dict())
    return {"kinds": list(found), **found}
