"""Does cutting neurons and layers of one folder give what PyTorch says? `check(folder)` answers with a `UnitRow`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import onnx
from onnx import ModelProto

from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import Planning, analyse
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.benchmarking.flops import Flops, concrete_view
from onnxheadprune.edit.apply import apply_plan
from onnxheadprune.errors import RefusedError
from onnxheadprune.runtime.tolerances import tolerance_for
from tests.zoo.analysed import Analysed, told
from tests.zoo.check import FINE
from tests.zoo.folder import Folder
from tests.zoo.row import Outcome
from tests.zoo.runs import Arrays, DifferentShapeError, Runner, distance
from tests.zoo.units.bypass import NoStateError
from tests.zoo.units.cuts import KINDS, Cut, cuts_of
from tests.zoo.units.row import UnitRow, Verdict

Reference = Callable[[Mapping[Site, tuple[int, ...]], int], Arrays | None]
"""PyTorch's outputs without some units on one feed; None where it cannot say."""


def check(path: Path, references: Callable[[Folder, Sites], Reference] | None = None) -> UnitRow:
    """Makes every cut of a folder and compares; never raises for what the engine does.

    Args:
        path: the folder.
        references: makes what asks PyTorch; without it all is compared with the masked reference.
    """
    return _Check(Folder(path), references).row()


class _Check(Analysed):
    def __init__(self, folder: Folder, references: Callable[[Folder, Sites], Reference] | None) -> None:
        super().__init__(folder)
        self.references = references

    @cached_property
    def whole(self) -> list[Arrays]:
        """What the original gives on each feed."""
        runner = Runner(self.folder.model)
        return [runner(feed) for feed in self.folder.feeds()]

    @cached_property
    def torch(self) -> Reference:
        """PyTorch, where its numbers are near enough to decide."""
        tolerance = self.folder.tolerance
        if self.references is None or tolerance is None or tolerance > FINE:
            return lambda units, feed: None
        return self.references(self.folder, self.sites)

    def row(self) -> UnitRow:
        case = self.folder.case
        try:
            verdicts = {kind: self._verdict(kind) for kind in KINDS}
        except Exception as problem:  # whatever the engine or ONNX Runtime raises is the finding
            broken = Verdict(Outcome.ERROR, detail=told(problem))
            verdicts = dict.fromkeys(KINDS, broken)
        return UnitRow(case["name"], case["variant"], case["family"], verdicts)

    def _verdict(self, kind: str) -> Verdict:
        found = self.sites.of(kind)
        if not found:
            return Verdict(Outcome.NO_SITE)
        reasons = {str(site.reason) for site in found if site.reason is not None}
        gathers: set[str] = set()
        error, done, torch = 0.0, 0, 0
        for cut in (cut for cut in cuts_of(self.sites) if cut.kind == kind):
            try:
                planning = analyse(self.folder.model, cut.spec, self.folder.path.name)
            except RefusedError as refusal:
                reasons.add(str(refusal))
                continue
            gathers |= {gather.reason for gather in planning.plan.edge_gathers}
            try:
                off, by_torch = self._compared(cut, planning)
            except _ApartError as problem:
                return Verdict(
                    Outcome.WRONG, len(found), done, torch, detail=f"{cut.name} {cut.spec}: {problem}"
                )
            error, done, torch = max(error, off), done + 1, torch + by_torch
        outcome = Outcome.REFUSED if not done else Outcome.GATHERS if gathers else Outcome.EXACT
        if not done and not reasons:
            outcome = Outcome.UNEXPECTED
        return Verdict(
            outcome, len(found), done, torch, self.general(gathers), self.general(reasons), "", error
        )

    def _compared(self, cut: Cut, planning: Planning) -> tuple[float, bool]:
        """The largest error of a cut, and whether PyTorch was asked.

        Raises:
            _ApartError: if the cut is not what it must be.
        """
        model = apply_plan(planning.plan, self.folder.model)
        before, after = self._operations(self.folder.model), self._operations(model)
        # Experts that get some tokens each have as many operations as the input makes them have.
        smaller = planning.plan.elements_removed > 0 if before.uncounted else after.total < before.total
        if not smaller:
            raise _ApartError("it computes as much as before")
        if self.folder.passes_checker:
            try:
                onnx.checker.check_model(model)
            except onnx.checker.ValidationError as error:
                raise _ApartError(
                    f"the cut model is invalid: {str(error).strip().splitlines()[0]}"
                ) from error
        pruned = Runner(model)
        masked: Runner | None = None
        worst, asked = 0.0, True
        for feed, inputs in enumerate(self.folder.feeds()):
            got, limit = pruned(inputs), self.folder.tolerance or 0.0
            try:
                want, who = self.torch(cut.units, feed), "PyTorch"
            except NoStateError as problem:
                raise _ApartError(str(problem)) from problem
            if want is None:
                masked = masked or Runner(self._masked(planning))
                want, who, asked = masked(inputs), "the masked reference", False
                limit = tolerance_for(planning.view).exact
            effect = _distance(want, self.whole[feed])
            error = _distance(got, want)
            # A cut that hardly moves the outputs must be told from none at all.
            if error > min(limit, max(effect / 2, 1e-6)):
                raise _ApartError(
                    f"off by {error:.1e} from {who} on feed {feed}, which it moves by {effect:.1e}"
                )
            worst = max(worst, error)
        return worst, asked

    def _operations(self, model: ModelProto) -> Flops:
        """The operations of one run on the first feed."""
        names = {info.name for info in model.graph.input}
        feed = {name: array for name, array in self.folder.feeds()[0].items() if name in names}
        return Flops.of(concrete_view(model, feed))

    def _masked(self, planning: Planning) -> ModelProto:
        return masked_reference(planning.view, planning.touched, planning.heads)


class _ApartError(Exception):
    """A cut is not what PyTorch computes without these units."""


def _distance(got: Arrays, want: Arrays) -> float:
    try:
        return max(distance(got[name], value, name) for name, value in want.items())
    except DifferentShapeError as problem:
        raise _ApartError(str(problem)) from problem
