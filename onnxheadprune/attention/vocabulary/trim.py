"""A model with a smaller vocabulary: fewer rows in tables, fewer logits, and new ids for the remaining tokens.

The model with new ids (`translate`) is cut by the same sweep that removes heads: outputs need a part of the logits,
and lookups a part of their tables. Lookups then read new ids, and all other readers of ids (a mask computed from them,
for example) still get the original's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from onnxheadprune.attention.vocabulary.find import vocabulary_of
from onnxheadprune.attention.vocabulary.ids import Flow, added, blocked_at, dtype_of, flow_of
from onnxheadprune.attention.vocabulary.logits import Logits, Vocabulary
from onnxheadprune.attention.vocabulary.translate import (
    all_logits,
    constants,
    indices_of,
    old_ids,
    original_ids,
    translated,
)
from onnxheadprune.display.spelling import first_few
from onnxheadprune.edit import apply, nodes
from onnxheadprune.edit.edits import (
    MAIN,
    MARK,
    AddConstant,
    DropNode,
    Edit,
    Rename,
    SetInput,
    SliceTensor,
)
from onnxheadprune.edit.plan import PrunePlan, VocabularyCut
from onnxheadprune.edit.records import RecordedVocabulary, record_of, write_record
from onnxheadprune.edit.renaming import with_fresh_names
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.liveness.domain import Masks
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.realize import realize
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.sweep_result import Seed, Sweep
from onnxheadprune.liveness.unused import settled
from onnxheadprune.model.analysis_errors import analysing
from onnxheadprune.model.graph.view import GraphView, Node, Use, Value
from onnxheadprune.model.graph.walks import reachable
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.storage.tensors import stored_size, tensors_of
from onnxheadprune.model.tensors import FLOATS, Mask
from onnxheadprune.operators import view_of

SITE = "vocabulary"
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Trimming:
    """A model with fewer tokens, and its source."""

    model: LoadedModel  # with the smaller vocabulary; its metadata record the remaining tokens
    cut: VocabularyCut  # its entry in a plan
    vocabulary: Vocabulary  # of its source
    kept: Ids  # the source's id of each new one
    slices: Sequence[SliceTensor]  # the tensors of the source that lost tokens

    def on(self, plan: PrunePlan) -> PrunePlan:
        """Translate a plan for the smaller vocabulary to one for the source."""
        elements = plan.elements_removed + self.cut.elements
        notes = (*plan.notes, *self._notes())
        return replace(plan, vocabulary=self.cut, elements_removed=elements, notes=notes)

    def _notes(self) -> Iterator[str]:
        """Yield notes on outputs that are not as wide as there are tokens, or are no logits though they are."""
        rows = self.vocabulary.rows
        for item in self.vocabulary.logits:
            if item.width != rows:
                _, columns = indices_of(item, rows, self.kept)
                yield f"{item.name} keeps {len(columns):,} of its {item.width:,} columns: those of the tokens kept"
        for name in self.vocabulary.others:
            yield f"{name} keeps all of its {rows:,} values, which are taken for classes and not for tokens"

    def translated(self, model: LoadedModel, shift: int = 0) -> ModelProto:
        """A model of the same tokens with new ids.

        Args:
            model: the source of this model, or the model before an exit was made permanent.
            shift: the offset of each id: not 0 for a deliberate mistake that a proof must detect.
        """
        view = view_of(model)
        known = self.vocabulary
        vocabulary = vocabulary_of(view, model.name, known.inputs, known.rows, known.outputs)
        return translated(view, vocabulary, np.roll(self.kept, shift))


def trimming(
    loaded: LoadedModel,
    kept: Sequence[int] | Ids,
    inputs: Sequence[str] = (),
    rows: int | None = None,
    logits: Sequence[str] | None = None,
) -> Trimming:
    """The model with the kept tokens only.

    Args:
        inputs: names of the inputs with token ids; without, they are found by dataflow.
        rows: how many tokens there are, where another file of the network says so.
        logits: names of the outputs with a number for each token; None where the model decides.
    """
    with analysing(loaded.proto, loaded.name):
        view = view_of(loaded)
        _require_outputs(view, loaded.name, logits or ())
        vocabulary = vocabulary_of(view, loaded.name, inputs, rows, logits)
        if not vocabulary.tables:
            raise RefusedError(f"{loaded.name} has no table with a row for each of {vocabulary.rows} tokens")
        if vocabulary.obstacle:
            raise RefusedError(f"the vocabulary of {loaded.name} cannot get smaller: {vocabulary.obstacle}")
        if vocabulary.open:
            raise UsageError(_question(vocabulary, loaded.name))
        hidden = _hidden_logits(view, vocabulary) if logits is None else None
        if hidden is not None:
            raise RefusedError(
                f"the output {hidden} of {loaded.name} has a number for each of {vocabulary.rows} tokens, and no linear"
                " layer was found that gives them, so they would keep their old ids; where they are no tokens, say so"
                f" with `token_logits=none`"
            )
        ids = _checked(kept, vocabulary, loaded.name)
        return _trimmed(loaded, view, vocabulary, ids)


def _require_outputs(view: GraphView, name: str, logits: Iterable[str]) -> None:
    """Check that a model has outputs of some names."""
    known = [info.name for info in view.model.graph.output]
    unknown = next((item for item in logits if item not in known), None)
    if unknown is not None:
        raise UsageError(
            f"{name} has no output {unknown!r:.80} to be logits; its outputs are {first_few(known)}"
        )


def _question(vocabulary: Vocabulary, name: str) -> str:
    """Ask which outputs are logits of tokens."""
    first = vocabulary.open[0]
    names = ",".join(dict.fromkeys([*vocabulary.outputs, *(item.name for item in vocabulary.open)]))
    return (
        f"the output {first.name} of {name} has {first.width:,} values and its vocabulary {vocabulary.rows:,} tokens,"
        " and nothing shows whether these values are logits of tokens: if they are, give"
        f" `token_logits={names}`, else"
        f" `token_logits={','.join(vocabulary.outputs) or 'none'}`"
    )


def _hidden_logits(view: GraphView, vocabulary: Vocabulary) -> str | None:
    """Return the name of an output with a number for each token whose linear layer was not found, None without.

    An axis as long as the vocabulary may also be that of an input, or the width of the tables.
    """
    values = view.main.values
    others = [size for info in view.model.graph.input for size in values[info.name].shape or ()]
    for table in vocabulary.tables:
        sizes = list(table.shape or ())
        # A second table may have fewer rows.
        if vocabulary.rows in sizes:
            sizes.remove(vocabulary.rows)
        others += sizes
    if vocabulary.rows in others:
        return None
    named = {*vocabulary.outputs, *vocabulary.others}
    return next(
        (
            info.name
            for info in view.model.graph.output
            if info.name not in named
            and values[info.name].elem_type in FLOATS
            and vocabulary.rows in (values[info.name].shape or ())
        ),
        None,
    )


def _checked(kept: Sequence[int] | Ids, vocabulary: Vocabulary, name: str) -> Ids:
    """The ids in order, each once."""
    ids = np.unique(np.asarray(kept, np.int64))
    if not len(ids):
        raise UsageError("no token is kept; name at least one")
    outside = ids[(ids < 0) | (ids >= vocabulary.rows)]
    if len(outside):
        raise UsageError(f"{name} has no token {outside[0]}: its ids are 0 to {vocabulary.rows - 1}")
    missing = sorted(vocabulary.stored.difference(ids.tolist()))
    if missing:
        raise UsageError(f"{name} itself uses token {missing[0]}, so it must be kept")
    return ids


def _trimmed(loaded: LoadedModel, view: GraphView, vocabulary: Vocabulary, kept: Ids) -> Trimming:
    # A Gather would tell the sweep that the original does not need the other logits.
    proto = translated(
        view,
        vocabulary,
        kept,
        lambda item, _: nodes.new(MAIN, "Identity", (all_logits(item.name),), item.name),
    )
    edits = _edits(view_of(loaded.changed(proto)), vocabulary, kept)
    made = apply.apply_edits(edits, proto)
    before = record_of(loaded.proto).vocabulary
    local = record = RecordedVocabulary(
        vocabulary.rows, tuple(kept.tolist()), vocabulary.inputs, vocabulary.outputs
    )
    if before is not None:
        if before.inputs and set(before.inputs).isdisjoint(local.inputs):
            raise RefusedError(
                f"{loaded.name} has lost tokens of {first_few(before.inputs)} before, and records one vocabulary"
            )
        record = replace(local, rows=before.rows, kept=tuple(before.kept[token] for token in local.kept))
    write_record(made, replace(record_of(made), vocabulary=record))
    elements = stored_size(loaded.proto).elements - stored_size(made).elements
    left = {stored.tensor.name: tuple(stored.tensor.dims) for stored in tensors_of(made)}
    smaller = (value.name for value in vocabulary.tables if left.get(value.name) != value.shape)
    cut = VocabularyCut(
        tokens=local, outputs=vocabulary.outputs, tables=tuple(smaller), elements=max(elements, 0)
    )
    slices = [edit for edit in edits if isinstance(edit, SliceTensor)]
    return Trimming(loaded.changed(made), cut, vocabulary, kept, slices)


def _edits(view: GraphView, vocabulary: Vocabulary, kept: Ids) -> list[Edit]:
    """All edits on the model that answers to new ids."""
    mask = np.zeros(vocabulary.rows, np.bool_)
    mask[kept] = True
    flows = {name: _within(flow_of(view.main.values[original_ids(name)]), mask) for name in vocabulary.inputs}
    swept, narrowed = _swept(view, vocabulary, flows, mask)
    _require_passed(swept, flows.values())
    edits = dict(realize(view, swept).edits)
    _require_smaller(edits, view, flows)
    for name, flow in flows.items():
        edits |= dict.fromkeys(_renumbered(view, name, flow, kept), frozenset({SITE}))
    for item in vocabulary.logits:
        node = _producer(view.main.values[item.name])
        if node not in narrowed:
            # Something mixes all logits, after which they are picked.
            _, columns = indices_of(item, vocabulary.rows, kept)
            value = _source(node)
            output, indices = f"{value.name}/{MARK}_kept", f"{value.name}/{MARK}_columns"
            gather = nodes.new(node.ref, "Gather", (value.name, indices), output, axis=item.axis)
            behind: list[Edit] = [
                AddConstant.of(MAIN, indices, columns),
                gather,
                SetInput(node.ref, 0, output),
            ]
            edits |= dict.fromkeys(behind, frozenset({SITE}))
    edits = settled(view, edits, swept.kept)
    for node in narrowed:
        # What it hands on takes its name; to drop it before would drop what makes that.
        handed_on: list[Edit] = [
            DropNode(node.ref, node.op_type),
            Rename(MAIN, _source(node).name, node.out.name),
        ]
        edits |= dict.fromkeys(handed_on, frozenset({SITE}))
    return list(with_fresh_names(view, edits))


def _within(flow: Flow, mask: Mask) -> Flow:
    """Return the uses of ids by lookups whose tables lose rows: the first rows of a larger table have ids."""
    lookups = (item for item in flow.lookups if item.rows is not None and item.rows <= len(mask))
    return replace(flow, lookups=tuple(item for item in lookups if mask[: item.rows].any()))


def _swept(
    view: GraphView, vocabulary: Vocabulary, flows: Mapping[str, Flow], mask: Mask
) -> tuple[Sweep, list[Node]]:
    """Return the live sets without the tokens, and the nodes with logits of which nothing is left to pick."""
    seeds = [
        Seed(lookup.node, index, Live.over((lookup.axis,), mask[: lookup.rows]), SITE)
        for flow in flows.values()
        for lookup in flow.lookups
        for index in lookup.tables
    ]
    logits = {_producer(view.main.values[item.name]): item for item in vocabulary.logits}
    picks = list(logits)
    while True:
        wanted = {node: Live.over((logits[node].axis,), _columns(logits[node], mask)) for node in picks}
        demands = [*seeds, *(Seed(node, 0, live, SITE) for node, live in wanted.items())]
        swept = sweep(demands, domain=Masks("tokens"))
        left = [node for node in picks if swept.kept.get(_source(node), FULL) == wanted[node]]
        if left == picks:
            return swept, picks
        picks = left


def _columns(item: Logits, mask: Mask) -> Mask:
    """The logits of kept tokens, without padding beyond the last token."""
    columns = np.zeros(item.width, np.bool_)
    columns[: len(mask)] = mask[: item.width]
    return columns


def _renumbered(view: GraphView, name: str, flow: Flow, kept: Ids) -> Iterator[Edit]:
    """Let lookups read new ids, and all other readers the original's."""
    old = view.main.values[original_ids(name)]
    leads = {lookup.node for lookup in flow.lookups} | flow.movers
    for use in old.consumers:
        if use.node in leads:
            yield SetInput(use.node.ref, use.input_index, name)
    ends = {(lookup.node, lookup.ids) for lookup in flow.lookups}
    for node in sorted(flow.movers, key=lambda item: item.index):
        for index, array in added(node).items():
            yield from _stored_anew(node, index, array, kept)
        for value in node.outputs:
            readers = [] if value is None else [use for use in value.consumers if use.node not in flow.movers]
            for use in readers:
                if value is not None and (use.node, use.input_index) not in ends:
                    yield from _translated_for(use, value)
                    if dtype_of(value) != dtype_of(old):
                        for stored, array in constants(kept, dtype_of(value), value.scope.opset).items():
                            yield AddConstant.of(MAIN, stored, array)


def _stored_anew(node: Node, index: int, array: npt.NDArray[np.integer[Any]], kept: Ids) -> Iterator[Edit]:
    """Let a node add the new ids of stored tokens."""
    stored, new = f"{node.out.name}/{MARK}_stored{index}", np.searchsorted(kept, array).astype(array.dtype)
    value = node.input(index)
    if value is None or value.literal() is not None:
        yield AddConstant.of(node.scope.ref, stored, new)
        yield SetInput(node.ref, index, stored)
        return
    # Nobody knows before a run how often they are there.
    table = np.zeros(array.max() + 1, array.dtype)
    table[array] = new
    repeated = f"{stored}_repeated"
    yield AddConstant.of(node.scope.ref, stored, table)
    yield nodes.new(node.ref, "Gather", (stored, value.name), repeated, axis=0)
    yield SetInput(node.ref, index, repeated)


def _translated_for(use: Use, value: Value) -> Iterator[Edit]:
    """Let one reader of new ids read the original's."""
    output = f"{value.name}/{MARK}_ids_{use.name}"
    yield from old_ids(use.node.ref, value.name, output, dtype_of(value), value.scope.opset)
    yield SetInput(use.node.ref, use.input_index, output)


def _require_passed(swept: Sweep, flows: Iterable[Flow]) -> None:
    """Refuse a cut that a node between a table and a lookup does not follow, as where tokens share a scale."""
    flows = list(flows)
    shared = next((item.node for flow in flows for item in flow.lookups if item.shares_scales), None)
    if shared is not None:
        raise RefusedError(
            f"the vocabulary cannot get smaller: several tokens share a scale at {shared.label}"
        )
    tables = (lookup.node.input(lookup.table) for flow in flows for lookup in flow.lookups)
    makers = (table.producer for table in tables if table is not None)
    for node in reachable([node for node in makers if node is not None], lambda node: node.producers):
        if node in swept.refusals:
            reason = swept.refusals[node].about("tokens")
            raise RefusedError(f"the vocabulary cannot get smaller: {reason}")


def _require_smaller(
    edits: Mapping[Edit, frozenset[str]], view: GraphView, flows: Mapping[str, Flow]
) -> None:
    """Refuse a cut that copies a table because something needs all of it."""
    sources = {view.main.values[original_ids(name)]: name for name in flows}
    narrower = {lookup.node for flow in flows.values() for lookup in flow.lookups}
    for edit in edits:
        if isinstance(edit, SliceTensor) and edit.target != edit.name:
            scope = next(scope for scope in view.scopes if scope.ref == edit.scope)
            value = scope.values[edit.name]
            moved = {item.node for item in edits if isinstance(item, SetInput) and item.value == edit.target}
            readers = [
                use.node for use in value.consumers if use.node.ref not in moved and use.node not in narrower
            ]
            blocked = blocked_at(sources, readers[0]) if readers else None
            why = "" if blocked is None else f": {blocked}"
            raise RefusedError(
                f"the vocabulary cannot get smaller: {readers[0].label if readers else 'an output'} reads {edit.name}"
                f" with all of its tokens{why}"
            )


def _producer(value: Value) -> Node:
    assert value.producer is not None
    return value.producer


def _source(node: Node) -> Value:
    value = node.inputs[0]
    assert value is not None
    return value
