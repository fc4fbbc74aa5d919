"""Trial cuts of one model: planning, refits and measurements with shared data."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnxheadprune.attention import planning
from onnxheadprune.attention.main_graph_copy import with_switches
from onnxheadprune.attention.sites.find import analysis_of
from onnxheadprune.choosing.compensation.compensate import Refitting, compensate
from onnxheadprune.choosing.compensation.record import Compensation
from onnxheadprune.choosing.compensation.tasks import Which
from onnxheadprune.choosing.effort import Work
from onnxheadprune.choosing.select import search_space
from onnxheadprune.choosing.space import Asked, SearchSpace, Selection
from onnxheadprune.data.calibration import calibration_data, require_variety
from onnxheadprune.data.drift import Evidence
from onnxheadprune.data.splicing import MOST_WORK
from onnxheadprune.edit import apply
from onnxheadprune.errors import UsageError
from onnxheadprune.model.graph.main_output import require_main_output
from onnxheadprune.model.load import LARGE, LoadedModel, open_structure
from onnxheadprune.runtime import Provider, Session
from onnxheadprune.runtime.feeds.data import DataSource
from onnxheadprune.runtime.feeds.inputs import padding_warning
from onnxheadprune.runtime.memory_limits import Turns
from onnxheadprune.runtime.progress import Note, Progress, silent
from onnxheadprune.workflow.choice.chosen import Chosen
from onnxheadprune.workflow.requests import Request

if TYPE_CHECKING:
    from onnxheadprune.training.budget import Budget

REFIT_SHARE = 0.4
"""Part of the time that is left of a call which a refit may take, if it wants that much."""
PASSES = 8
"""The measured cost of a refit, as a multiple of one product of all positions with every refitted layer."""


class Cutter:
    """One model with its sites, its data in two parts and its provider, shared by all trial cuts.

    Attributes:
        model: the original.
        analysis: of it; `view` and `sites` are parts of it.
        data: all calibration data, None without any.
        learn: the part that refits learn from.
        held: the part that drift is measured on; the same as `learn` until one is held out.
        must_hold_out: whether the final weights must not learn from that part.
        refit: whether the remaining weights are refitted.
        provider: where to run.
        request: how cuts are made and judged: trial cuts as the final one.
        given: new numbers of a cut that was made before, which is trained; None makes them here.
        progress: called with each step.
        turns: lets sessions of whole models share the memory.
    """

    def __init__(
        self,
        model: LoadedModel,
        data: DataSource | None,
        provider: Provider,
        request: Request = Request(),
        progress: Progress = silent,
    ) -> None:
        """Read and check the data; starts no long computation.

        Args:
            data: calibration data, None to select by the weights or by given scores.
        """
        self.model = open_structure(model)
        self.analysis = analysis_of(self.model)
        self.view, self.sites = self.analysis.view, self.analysis.sites
        self.provider, self.request, self.progress = provider, request, progress
        self.turns = Turns(LARGE)
        self.data = None if data is None else calibration_data(data, self.view)
        if self.data is not None:
            require_variety(self.data)
            if warning := padding_warning(self.data.inputs):
                progress(Note(warning), 0, 0)
        if request.call.refit and self.data is None:
            raise UsageError("a refit needs data; give it with `data`")
        self.refit = self.data is not None if request.call.refit is None else request.call.refit
        # A cut of a given size learns from all data; a limit on drift and a recovery need data that none has seen.
        self.learn = self.held = self.data
        self.must_hold_out = False
        self.given = request.compensation
        if request.budget is not None:
            if self.data is None:
                raise UsageError("a recovery needs data; give it with `data`")
            from onnxheadprune.training.recover import require_recoverable, split_for_recovery

            require_recoverable(self.view, require_main_output(self.view), self.data)
            self.learn, self.held = split_for_recovery(self.data)
            given = self.given
            if given is not None and not given.steps and given.data == self.data.fingerprint:
                # It has seen what judges the training, so it is made again from what steps learn from.
                self.given, self.refit = None, True

    def search_space(self, asked: Asked | None = None) -> SearchSpace:
        """The paths of cuts, from which selections are made."""
        # A recovery is judged on a part that no step has seen; the choice of what goes is the same without one.
        data = self.learn if self.must_hold_out else self.data
        evidence = None if data is None else Evidence(data, self.provider, self.request.call.drift)
        return search_space(self.analysis, self.request.call, evidence, self.progress, asked)

    def hold_out(self, why: str) -> None:
        """Exclude a part of the data from every refit, so that drift and accuracy on it are unbiased."""
        if self.data is None:
            raise UsageError(f"{why}; give some with `data`")
        if not self.is_held_out:
            self.learn, self.held = self.data.split()
        self.must_hold_out = True

    def on_all_data(self) -> Cutter:
        """The same with nothing held out: refits learn from all data, and drift is measured on it."""
        made = copy.copy(self)
        made.learn = made.held = self.data
        return made

    def within(self, budget: Budget) -> Cutter:
        """The same with another budget for training."""
        made = copy.copy(self)
        made.request = replace(self.request, budget=budget)
        return made

    @property
    def budget(self) -> Budget | None:
        """The budget for training, None without."""
        return self.request.budget

    @property
    def is_held_out(self) -> bool:
        """True if drift is measured on data that no refit has seen."""
        return self.held is not self.learn

    def present(self, heads: Mapping[int, tuple[int, ...]]) -> dict[int, frozenset[int]]:
        """Units of every site by their present numbers, from their numbers in the original."""
        sites = self.sites.concerned(heads)
        return {site.index: frozenset(site.present(heads.get(site.index, ()))) for site in sites}

    def compensation(self, heads: Mapping[int, tuple[int, ...]], which: Which = "all") -> Compensation:
        """Refitted weights for a set of heads (indices of the original model)."""
        assert self.learn is not None
        view, sites = with_switches(self.view, self.sites.concerned(heads))
        return compensate(
            view,
            sites,
            self.present(heads),
            self.learn,
            self.provider,
            how=Refitting(which, self._work_of_refit()),
            progress=self.progress,
        )

    def _work_of_refit(self) -> float:
        """The most multiply-adds of a refit: where the call has a time limit, a part of the remaining time."""
        budget = self.budget
        left = None if budget is None or budget.call is None else budget.left
        if left is None:
            return MOST_WORK
        return min(MOST_WORK, left * REFIT_SHARE * _work_per_second() / PASSES)

    def planned(self, chosen: Chosen) -> Chosen:
        """The plan of a cut, made for the model with the refitted weights, which the plan depends on."""
        analysis = self.analysis
        if chosen.numbers is not None:
            subject = chosen.renumbered(self.model)
            analysis = analysis_of(subject)
        made = planning.planned(analysis, chosen.selection.spec, self.request.contract)
        return replace(chosen, plan=made.plan, io=made.io)

    def cut(self, chosen: Chosen) -> LoadedModel:
        """The model without the chosen heads."""
        assert chosen.plan is not None
        subject = chosen.renumbered(self.model)
        return subject.changed(apply.apply_plan(chosen.plan, subject.proto), "the pruned model")

    def timed(self, selection: Selection) -> LoadedModel:
        """The model without the selected heads as it will be written, except for refitted weights."""
        cut = self.cut(self.planned(Chosen(selection)))
        if self.request.call.fuse in ("none", "auto"):
            return cut
        from onnxheadprune.fusion.fuse import fuse

        return cut.changed(fuse(cut.proto, self.request.call.fuse, self.model.name)[0])

    @functools.cached_property
    def work(self) -> Work:
        """Multiply-adds of the model, counted once for all of its cuts."""
        return Work(self.view)

    @functools.cached_property
    def original_session(self) -> Session:
        """The original, ready to run."""
        return self.session(self.model, "the original model")

    def session(self, model: LoadedModel, name: str) -> Session:
        """A whole model, ready to run in its turn."""
        self.turns.rest()
        return Session(model, self.provider, name=name).taking(self.turns)


def _work_per_second() -> float:
    """Multiply-adds per second of this machine, measured with matrix products on all threads."""
    some = np.ones((1024, 1024), np.float32)
    began = time.perf_counter()
    for _ in range(4):
        some @ some
    return 4 * 1024**3 / (time.perf_counter() - began)
