"""The result of `prune`: the pruned model, and all that is known about how it came about."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from onnx import ModelProto

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.display.displayed import Displayed
from onnxheadprune.display.facts import Facts, Part
from onnxheadprune.display.spelling import share
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.model.load import LoadedModel, load_model
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.storage.reading import hydrated
from onnxheadprune.model.storage.tensors import StoredSize
from onnxheadprune.model.typed_json import HIDDEN, Key, Spelled, written
from onnxheadprune.settings.units import LAYER
from onnxheadprune.validation.headline import Headline, headline_of
from onnxheadprune.validation.summary import result_of
from onnxheadprune.workflow.details import plan_details

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs
    import onnx_ir

    from onnxheadprune.benchmarking.flops import Operations
    from onnxheadprune.data.respelled import Spelling
    from onnxheadprune.fusion.result import Fusion
    from onnxheadprune.model.storage.claims import Backup
    from onnxheadprune.validation.result import Validation
    from onnxheadprune.workflow.choice.chosen import Chosen


def _before_after(sizes: tuple[int, int] | None) -> dict[str, int] | None:
    return None if sizes is None else {"before": sizes[0], "after": sizes[1]}


BEFORE_AFTER = Spelled(Any, _before_after)
"""Mark of sizes before and after."""
LATE = "the call took longer than `time` allows: the shortest time that can be kept here is {} s"
BLIND = "chosen by weights alone, which predicts little of the loss in outputs: give data with `data`"


@one_line("output validation before after chosen plan")
@dataclass(frozen=True, eq=False)
class PruneResult(Displayed):
    """A pruned model and how it came about.

    Attributes:
        pruned: the pruned model, as it is analyzed and as it is stored; weights that were not in memory are still where
            the original has them.
        plan: what was changed.
        validation: the verdict, None if validation was skipped.
        output: where the model was written, None if it was not.
        before: what the original's stored tensors hold, Constants included.
        after: what the pruned model's stored tensors hold.
        fusion: what became of each site, None if no fusion was asked for.
        chosen: how the heads were chosen and what was refitted, None for plain named heads.
        file_bytes: what the original's and the written model's files take, weights beside them included; None if
            there are not both.
        original: the model as it was; large weights are where its files have them.
        gates: limits that the choice had to keep.
        spelling: how much of the data the tokens that are kept spell as before; None without both.
        backup: where the model is kept that the output replaces, None if it replaces none.
        would_write: where a dry run would write; None without an output, and if this was none.
        shortest: seconds of the shortest call that could be kept, None where the time that was asked for was.
        does_not_load: why ONNX Runtime does not load the original; None if it does, or a proof has shown it.
    """

    pruned: Annotated[LoadedModel, HIDDEN]
    plan: Annotated[PrunePlan, HIDDEN]
    validation: Validation | None
    output: str | None
    before: StoredSize
    after: StoredSize
    fusion: Fusion | None = None
    chosen: Annotated[Chosen | None, Key("choice")] = None
    file_bytes: Annotated[tuple[int, int] | None, BEFORE_AFTER] = None
    original: Annotated[LoadedModel | None, HIDDEN] = None
    gates: tuple[Gate, ...] = ()
    spelling: Spelling | None = None
    does_not_load: Annotated[str | None, HIDDEN] = None
    backup: Backup | None = None
    would_write: str | None = None
    shortest: Annotated[int | None, HIDDEN] = None

    def facts(self) -> Facts:
        """The gains and costs of the cut; its sites, the plan and the choice as details."""
        told = result_of(self.to_dict(), self.headline).facts()
        return replace(told, details=tuple(self._details()))

    def _details(self) -> Iterator[Part]:
        sizes = self.before, self.after
        yield from plan_details(self.plan, sizes, self.chosen, self.spelling, self.fusion)
        if self.validation is not None:
            yield from self.validation.details

    @property
    def results(self) -> tuple[PruneResult, ...]:
        """The results of all models, which is this one; see `FolderResult`."""
        return (self,)

    @property
    def compared_with(self) -> str:
        """The path of the original, also where it was replaced."""
        return self.plan.model if self.backup is None else str(self.backup.original)

    @property
    def verdict(self) -> str:
        """The verdict of the validation, "skipped" where nothing was compared."""
        return "skipped" if self.validation is None else self.validation.verdict

    @property
    @written()
    def headline(self) -> Headline:
        """The verdicts: exact, good enough, accepted."""
        validation = None if self.validation is None else self.validation.to_dict()
        warning = None if self.chosen is None else self.chosen.warning
        return headline_of([validation], self.gates, warning=warning)

    @property
    @written()
    def warnings(self) -> tuple[str, ...]:
        """Warnings although the result is exact, one sentence each."""
        if not self.plan.changes_something:
            return ()
        grown = size_warnings(self.before, self.after)
        if not grown and self.file_bytes is not None:
            grown = _file_warnings(*self.file_bytes, self._recorded())
        blind = (BLIND,) if self.chosen is not None and self.chosen.selection.is_blind else ()
        late = () if self.shortest is None else (LATE.format(self.shortest),)
        return (*_load_warnings(self.does_not_load), *late, *blind, *grown, *self._heavy_layer())

    def _recorded(self) -> int:
        """Return how many bytes of metadata the pruned model has beyond the original's."""
        before = 0 if self.original is None else _metadata_bytes(self.original.proto)
        return _metadata_bytes(self.pruned.proto) - before

    def _heavy_layer(self) -> tuple[str, ...]:
        """Return a warning where layers that were removed, or one sublayer, held more than half of all operations."""
        layers = tuple(cut.called for cut in self.plan.losing if cut.units == LAYER.units)
        names = layers or self.plan.called_whole
        if not names or self.operations is None or not self.operations.halved:
            return ()
        if self.plan.exit is not None or (len(names) > 1 and not layers):
            return ()
        held = share(1 - self.operations.after / self.operations.before)
        what = names[0] if len(names) == 1 else f"the {len(names)} removed layers together"
        kept = "it is not" if len(names) == 1 else "none of them is"
        return (f"{what} held {held} of all operations: make sure that {kept} a stem or a classifier",)

    @functools.cached_property
    def model(self) -> ModelProto:
        """The pruned model with its weights in memory, which are read now if they were not before.

        Raises:
            ModelError: if its files were changed or removed since.
        """
        if self.output is not None and self.pruned.sources:
            return load_model(self.output)
        return hydrated(self.pruned.as_stored, self.pruned.sources)

    def to_graphsurgeon(self) -> gs.Graph:
        """The pruned model as a graph of onnx-graphsurgeon, which is made anew by every call.

        graphsurgeon has no place for the metadata of a model, where the removed heads are noted: it is in the graph's
        attribute `metadata_props`, and is found there by whatever of this package takes the graph.

        Raises:
            ModelError: if the weights cannot be read.
        """
        from onnxheadprune.model.exchange import to_graphsurgeon

        return to_graphsurgeon(self.model)

    def to_onnx_ir(self) -> onnx_ir.Model:
        """The pruned model as a model of onnx_ir, which is made anew by every call.

        Raises:
            UsageError: if onnx_ir is not installed.
            ModelError: if the weights cannot be read.
        """
        from onnxheadprune.model.exchange import to_onnx_ir

        return to_onnx_ir(self.model)

    @functools.cached_property
    @written()
    def operations(self) -> Operations | None:
        """Operations of one run, before and after; None where validation ran nothing."""
        if self.original is None or self.validation is None or not self.validation.cases:
            return None
        from onnxheadprune.benchmarking.flops import Operations

        return Operations.of(self.original.proto, self.pruned.proto, self.validation.cases[0].shapes)

    @written("model")
    def _named(self) -> str:
        return self.plan.model

    @written("plan")
    def _planned(self) -> dict[str, Any]:
        """The plan; that of a dry run with every edit."""
        return self.plan.summary() if self.would_write is None else self.plan.to_dict()


def size_warnings(before: StoredSize, after: StoredSize) -> tuple[str, ...]:
    """A sentence if the tensors of a pruned model take more bytes than before."""
    if after.bytes <= before.bytes:
        return ()
    grown = after.bytes - before.bytes
    sentence = (
        f"the weights grow by {grown:,} bytes: new indices or copies of shared weights outweigh what is cut"
    )
    return (sentence,)


def _file_warnings(before: int, after: int, recorded: int) -> tuple[str, ...]:
    """A sentence if the files of a pruned model take more bytes than before, with the cause."""
    grown = after - before
    if grown <= 0:
        return ()
    cause = f"the record of what was removed takes {recorded:,} bytes of metadata"
    if recorded < grown:
        cause += f", and new nodes and constants take {grown - recorded:,} bytes more than what is cut"
    return (f"the file grows by {grown:,} bytes: {cause}",)


def _load_warnings(why: str | None) -> tuple[str, ...]:
    return () if why is None else (f"the original does not load in ONNX Runtime: {why}",)


def _metadata_bytes(model: ModelProto) -> int:
    return sum(item.ByteSize() for item in model.metadata_props)
