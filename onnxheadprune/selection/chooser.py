"""From a wish ("half of the heads", "1.3 times as fast") to heads, and to weights that make up for them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnxheadprune.attention.analysis import Analysis, analysis_of
from onnxheadprune.attention.contract import Contract
from onnxheadprune.attention.heads import HeadSpec, resolve_heads
from onnxheadprune.attention.planning import planned
from onnxheadprune.benchmarking import BenchSettings
from onnxheadprune.edit import apply
from onnxheadprune.edit.extract import with_stored
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.fusion import FuseMode, fuse
from onnxheadprune.model.load import LoadedModel, open_structure
from onnxheadprune.model.storage.reading import hydrated
from onnxheadprune.runtime import Provider, Session
from onnxheadprune.runtime.feeds import DataSource, Sample
from onnxheadprune.runtime.feeds.narrowing import narrowed
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.selection import Evidence, Requirements, SearchSpace, Selection, search_space
from onnxheadprune.selection.activations.data import calibration_data
from onnxheadprune.selection.activations.drift import EffectMeter, Measure
from onnxheadprune.selection.activations.parts import run_feed
from onnxheadprune.selection.compensation import Compensation, compensate, refitted
from onnxheadprune.selection.recovery import (
    RECOVERY_HELD_OUT,
    Recovering,
    Recovery,
    Subject,
    recover,
    require_recoverable,
)
from onnxheadprune.selection.scoring.ablation import require_main
from onnxheadprune.selection.speed import smallest_reaching, speedups
from onnxheadprune.selection.wishes import Chosen, Faster, Keep, Near, Share, Trial, Wish

ROUNDING = 1e-3
"""Part of a limit on drift that is left free: other kernels and batches of the same model round otherwise."""


@dataclass(frozen=True)
class Trying:
    """How cuts are made and judged on the way to a choice.

    Attributes:
        compensate: refit what is left; None does so where there is data.
        effect: the measure of drift; see `EffectMeter`.
        contract: of the cuts that are tried, as of the one that is written.
        fuse: the same; "auto" is tried without, since it keeps what is faster.
        recovering: how what is left is trained after the refit, None to leave it at that.
        given: a refit that was made before, in the place of one.
    """

    compensate: bool | None = None
    effect: Measure | None = None
    contract: Contract = field(default_factory=Contract)
    fuse: FuseMode = "none"
    recovering: Recovering | None = None
    given: Compensation | None = None


class Chooser:
    """Everything that choices about one model share: its sites, their paths, the data in two parts."""

    def __init__(
        self,
        model: LoadedModel,
        data: DataSource | None,
        provider: Provider,
        trying: Trying = Trying(),
        progress: Progress = silent,
    ) -> None:
        """Reads and checks the data; nothing long happens yet.

        Args:
            model: the original.
            data: calibration data, None to go by the weights or by given scores.
            provider: where to run.
            trying: how cuts are made and judged.
            progress: told what is being done.

        Raises:
            UsageError: if the data does not fit, or compensation is asked for without any.
        """
        self.model = open_structure(model)
        self.analysis = analysis_of(self.model.proto, model.name, self.model.sources)
        self.view, self.sites = self.analysis.view, self.analysis.sites
        self.provider, self.trying, self.progress = provider, trying, progress
        self.data = None if data is None else calibration_data(data, self.view)
        if trying.compensate and self.data is None:
            raise UsageError("compensation learns from data; give some with --data, --text or --images")
        self.compensate = self.data is not None if trying.compensate is None else trying.compensate
        # A cut of a given size learns from all data; a limit on drift and a recovery need data that none has seen.
        self.learn = self.held = self.data
        if trying.recovering is not None:
            if self.data is None:
                raise UsageError("a recovery learns from data; give some with --data, --text or --images")
            require_recoverable(self.view, require_main(self.view), self.data)
            self.learn, self.held = self.data.split(RECOVERY_HELD_OUT)

    def search_space(
        self,
        requirements: Requirements,
        analysis: Analysis | None = None,
        gone: Mapping[int, frozenset[int]] | None = None,
    ) -> SearchSpace:
        """The paths that choices follow.

        Args:
            requirements: what choices go by and respect.
            analysis: of a model that has lost heads already, None for the original.
            gone: present heads per site index that it has lost; paths go on from there.
        """
        evidence = None if self.learn is None else Evidence(self.learn, self.provider, self.trying.effect)
        return search_space(analysis or self.analysis, requirements, evidence, self.progress, gone)

    def choose(self, wish: Wish) -> Chosen:
        """Heads for a wish, with refitted weights where that is wanted.

        Raises:
            UsageError: if the wish needs data and there is none.
            RefusedError: if it cannot be met.
        """
        target = wish.target
        if isinstance(target, Near):
            self.hold_out("a drift is measured on data")
        space = self.search_space(wish.requirements)
        match target:
            case Share():
                space = self._in_rounds(space, wish.requirements, target)
                return self.completed(space.ratio(target.ratio))
            case Keep():
                return self.completed(space.keeping(target.heads))
            case Faster():
                return self._fast_enough(space, target.speedup, wish.requirements.sizes)
            case Near():
                return self._near_enough(space, target.drift)

    def _in_rounds(self, space: SearchSpace, requirements: Requirements, share: Share) -> SearchSpace:
        """The search space after all rounds but the last: measured on what the earlier ones left."""
        wanted = space.ratio(share.ratio).count
        if share.rounds > 1 and (not self.compensate or requirements.scores is not None):
            raise UsageError("rounds measure and refit again, so they need data, and neither given scores")
        for number in range(1, share.rounds):
            selection = space.removing(round(wanted * number / share.rounds))
            left = with_stored(self.model.proto, self.compensation(selection.heads).silenced)
            analysis = analysis_of(left, self.model.name, self.model.sources)
            space = self.search_space(requirements, analysis, self._present(selection))
        return space

    def _present(self, selection: Selection) -> dict[int, frozenset[int]]:
        return {
            site.index: frozenset(site.present(selection.heads.get(site.index, ()))) for site in self.sites
        }

    def hold_out(self, why: str) -> None:
        """Keeps a part of the data from every refit, so that drift and accuracy on it are honest.

        Raises:
            UsageError: if there is no data.
        """
        if self.data is None:
            raise UsageError(f"{why}; give some with --data, --text or --images")
        if not self.is_held_out:
            self.learn, self.held = self.data.split()

    @property
    def is_held_out(self) -> bool:
        """Whether drift is measured on data that no refit has seen."""
        return self.held is not self.learn

    def completed(self, selection: Selection, among: int = 1) -> Chosen:
        """A selection with its compensation, its recovery, its plan and its drift.

        Args:
            selection: the heads.
            among: selections that share the time for recoveries.
        """
        compensation = self.trying.given
        if compensation is None and self.compensate:
            compensation = self.compensation(selection.heads)
        chosen = self._planned(Chosen(selection, compensation))
        if self.trying.recovering is not None:
            recovery = self._recovery(chosen, self.trying.recovering.shared(among))
            chosen = self._planned(Chosen(selection, compensation, recovery))
        if self.held is None:
            return chosen
        meter = self.drift(chosen, self.held.samples)
        chosen = replace(chosen, drift=meter.mean(), unit=meter.name, held_out=self.is_held_out)
        return self._worth_it(chosen)

    def _worth_it(self, chosen: Chosen) -> Chosen:
        """The choice without its refit, where that was rounded to few levels and does harm in the end.

        Each output of a map is refitted only if held-out rows gain by it, and still the levels of many maps together
        can lose more than that.
        """
        refit = chosen.compensation
        if (
            refit is None
            or not refit.quantized
            or chosen.recovery is not None
            or self.trying.given is not None
        ):
            return chosen
        assert self.held is not None and chosen.drift is not None
        bare = self._planned(Chosen(chosen.selection))
        drift = self.drift(bare, self.held.samples).mean()
        if chosen.drift <= drift:
            return chosen
        return replace(bare, drift=drift, unit=chosen.unit, held_out=chosen.held_out, given_up=chosen.drift)

    def compensation(self, heads: Mapping[int, tuple[int, ...]]) -> Compensation:
        """Refitted weights for a set of heads (indices of the original model)."""
        assert self.learn is not None
        present = self._present(Selection(heads, "given"))
        return compensate(
            self.view, self.sites.sites, present, self.learn, self.provider, progress=self.progress
        )

    def drift(self, chosen: Chosen, samples: Sequence[Sample]) -> EffectMeter:
        """How far the outputs move: measured as `validate` does, with the same main output and exact settings."""
        assert self.data is not None
        model, io = self.cut(chosen), chosen.io
        meter = EffectMeter(require_main(self.view, io), self.data.inputs, self.trying.effect)
        pruned = Session(model, self.provider, name="the pruned model")
        for sample in samples:
            before = run_feed(self._original, sample.feed, self.data.source)
            # A cache in the data is as wide as the original's.
            after = run_feed(pruned, narrowed(sample.feed, io), self.data.source)
            meter.add(before, after, sample.feed)
        return meter

    @functools.cached_property
    def _original(self) -> Session:
        return Session(self.model, self.provider, name="the original model")

    def timed(self, selection: Selection) -> LoadedModel:
        """The model without the selected heads as it will be written, but for refitted weights."""
        cut = self.cut(self._planned(Chosen(selection)))
        if self.trying.fuse in ("none", "auto"):
            return cut
        return cut.changed(fuse(cut.proto, self.trying.fuse, self.model.name)[0])

    def cut(self, chosen: Chosen) -> LoadedModel:
        """The model without the chosen heads."""
        assert chosen.plan is not None
        subject = renumbered(self.model, chosen)
        return subject.changed(apply.apply_plan(chosen.plan, subject.proto), "the pruned model")

    def _planned(self, chosen: Chosen) -> Chosen:
        """The plan of a cut, made for the model that is cut: refitted weights are other numbers to plan with."""
        analysis = self.analysis
        if chosen.numbers is not None:
            subject = renumbered(self.model, chosen)
            analysis = analysis_of(subject.proto, subject.name, subject.sources)
        planning = planned(analysis, chosen.selection.spec, self.trying.contract)
        return replace(chosen, plan=planning.plan, io=planning.io)

    def _recovery(self, chosen: Chosen, how: Recovering) -> Recovery:
        """What training makes of a cut."""
        assert self.learn is not None and self.held is not None and chosen.plan is not None
        cut = self.cut(chosen)
        subject = Subject(
            self.view,
            require_main(self.view, chosen.io),
            hydrated(cut.proto, cut.sources),
            chosen.plan,
            chosen.io,
            {} if chosen.compensation is None else chosen.compensation.stored,
        )
        return recover(subject, self.learn, self.held, self.provider, how, self.progress)

    def _fast_enough(self, space: SearchSpace, wanted: float, sizes: BenchSettings) -> Chosen:
        """The smallest cut that reaches a speed-up, searched on real pruned models, measured here."""
        measured: dict[str, Trial] = {}

        def trial(selection: Selection) -> Trial:
            key = repr(selection.spec)
            if key not in measured:
                (speed,) = speedups(self.model, [lambda: self.timed(selection)], self.provider, sizes)
                made = Trial(selection.count, speed.value, speed.reaches(wanted), speed)
                measured[key] = made
                text = f"measuring: {made.removed} heads less are {speed.value:.2f} times as fast"
                self.progress(text, len(measured), 0)
            return measured[key]

        def speed_of(count: int) -> float | None:
            return trial(space.removing(count)).measured if _exists(space, count) else None

        most = space.most()
        first = trial(space.removing(most))
        if not first.meets:
            raise RefusedError(
                f"without all {first.removed} heads that can go the model is {first.measured:.2f} times as fast, not"
                f" {wanted:g} times ({first.speed})"
            )
        selection = space.removing(smallest_reaching(most, wanted, speed_of))
        speed = trial(selection).speed
        return replace(self.completed(selection), trials=tuple(measured.values()), speed=speed)

    def _near_enough(self, space: SearchSpace, limit: float) -> Chosen:
        """The largest cut that stays within a drift, by bisection on real pruned models.

        Held-out data tells how the model will do elsewhere, and a later `validate` looks at all of the data: the drift
        on both stays within the limit.
        """
        trials: list[Trial] = []
        tried: dict[int, Chosen] = {}
        allowed = limit * (1 - ROUNDING)

        def too_far(count: int) -> bool:
            if not _exists(space, count):
                return False
            chosen = self.completed(space.removing(count), among)
            drift = self._largest_drift(chosen, allowed)
            tried[count] = chosen
            trials.append(Trial(chosen.selection.count, drift, drift <= allowed))
            self.progress(f"measuring: without {count} heads the drift is {drift:.2g}", len(trials), 0)
            # What is no number is not near.
            return not drift <= allowed

        count = space.most()
        # Each halving of the range is a trial, and the first one asks whether all may go.
        among = count.bit_length() + 1
        if too_far(count):
            count = _smallest(count, too_far) - 1
        if not trials:
            raise RefusedError("no head can go: protected heads, floors and groups of KV heads leave none")
        if not any(trial.meets for trial in trials):
            unit = next(iter(tried.values())).unit
            raise RefusedError(
                f"no cut stays within a drift of {limit:g}: the smallest drifts {trials[-1].measured:.2g} ({unit})"
            )
        chosen = tried[count] if count in tried else self.completed(space.removing(count), among)
        return replace(chosen, trials=tuple(trials))

    def _largest_drift(self, chosen: Chosen, allowed: float) -> float:
        """The drift on held-out data, or on all of it if that is larger; not measured where the first is too large."""
        assert self.data is not None and chosen.drift is not None
        if not chosen.drift <= allowed:
            return chosen.drift
        every = self.drift(chosen, self.data.whole)
        return max(chosen.drift, every.mean())


def renumbered(model: LoadedModel, chosen: Chosen) -> LoadedModel:
    """The original with the new numbers of a choice; itself where there are none."""
    if chosen.numbers is None:
        return model
    return refitted(model, chosen.numbers, chosen.steps)


def _exists(space: SearchSpace, count: int) -> bool:
    """Whether some legal cut removes so many heads or fewer; groups of KV heads and multiples can forbid small ones."""
    try:
        return space.removing(count).count > 0
    except RefusedError:
        return False


def _smallest(most: int, holds: Callable[[int], bool]) -> int:
    """The smallest count for which something holds, where it holds for `most` and from some count on."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


def named(chooser: Chooser, heads: HeadSpec) -> Chosen:
    """Heads that the user named, with refitted weights."""
    chosen = resolve_heads(heads, chooser.sites)
    return chooser.completed(Selection(chosen, "named"))
