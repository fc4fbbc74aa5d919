"""From a wish ("half of the heads", "1.3 times as fast") to heads, and to weights that make up for them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from onnxheadprune import surgery
from onnxheadprune.benchmarking import Benchmark, benchmark
from onnxheadprune.calibration.contexts import Progress, run_feed, silent
from onnxheadprune.calibration.data import Calibration, calibration_data
from onnxheadprune.calibration.drift import Effect, EffectMeter
from onnxheadprune.calibration.taps import with_stored
from onnxheadprune.compensation import Compensation, compensate, refitted
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.feeds import DataSource
from onnxheadprune.graph.view import GraphView
from onnxheadprune.heads import HeadSpec, resolve_heads
from onnxheadprune.liveness.live import Live
from onnxheadprune.model_io import LoadedModel, open_model
from onnxheadprune.pruning import analyse
from onnxheadprune.runtime import Provider, Session
from onnxheadprune.scoring.ablation import require_main
from onnxheadprune.scoring.scores import HeadScores
from onnxheadprune.selection import Ground, Limits, Selection, ground
from onnxheadprune.selection.allocate import check_ratio
from onnxheadprune.sites.find import sites_of, view_of
from onnxheadprune.validation.compare import narrowed

SECONDS = 6.0
"""Time to measure a speed-up, per candidate and grid point."""


@dataclass(frozen=True)
class Wish:
    """How many heads are to go, said in one of several ways, and what to respect.

    Attributes:
        ratio: share of all heads to remove.
        keep: heads that every site keeps.
        target_speedup: the smallest cut that is this many times as fast on the target.
        max_drift: the largest cut that drifts no further on held-out data.
        scores: what heads are worth; None measures it on the data.
        limits: floors, multiples, uniformity.
        protect: a head spec of heads that stay.
        rounds: in how many rounds heads go; before each but the first, what is left is refitted and measured
            again. Needs data and compensation.
        sizes: of the inputs that a speed-up is measured with; see `benchmark`.
    """

    ratio: float | None = None
    keep: int | None = None
    target_speedup: float | None = None
    max_drift: float | None = None
    scores: HeadScores | None = None
    limits: Limits | None = None
    protect: str | None = None
    rounds: int = 1
    sizes: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        given = [
            item for item in (self.ratio, self.keep, self.target_speedup, self.max_drift) if item is not None
        ]
        if len(given) != 1:
            raise UsageError(
                "say in one way how many heads are to go: by a ratio, by what every site keeps, by a speed-up or by a"
                " drift"
            )
        if self.rounds < 1 or (self.rounds > 1 and self.ratio is None):
            raise UsageError("rounds are 1 or more, and go with a ratio")
        if self.ratio is not None:
            check_ratio(self.ratio)
        if self.keep is not None and self.keep < 1:
            raise UsageError(f"every site keeps 1 head or more, not {self.keep}")
        if self.target_speedup is not None and not 1 < self.target_speedup < 100:
            raise UsageError(f"a target speed-up lies above 1, not at {self.target_speedup}")
        if self.max_drift is not None and not self.max_drift > 0:
            raise UsageError(f"a largest drift lies above 0, not at {self.max_drift}")


@dataclass(frozen=True)
class Trial:
    """A cut that was tried on the way to a target.

    Attributes:
        removed: heads that it removes.
        measured: its speed-up, or its drift.
        meets: whether that is good enough.
    """

    removed: int
    measured: float
    meets: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {"removed": self.removed, "measured": self.measured, "meets": self.meets}


@dataclass(frozen=True, eq=False)
class Chosen:
    """The answer to a wish.

    Attributes:
        selection: the heads, and why these.
        compensation: refitted weights, None without.
        trials: what was measured on the way to a speed-up or drift.
        drift: of the choice; None where it was not measured.
        unit: of the drift.
        held_out: whether the drift was measured on data that no refit has seen.
    """

    selection: Selection
    compensation: Compensation | None = None
    trials: tuple[Trial, ...] = ()
    drift: float | None = None
    unit: str | None = None
    held_out: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "selection": self.selection.to_dict(),
            "compensation": None if self.compensation is None else self.compensation.to_dict(),
            "trials": [trial.to_dict() for trial in self.trials],
            "drift": self.drift,
            "drift_unit": self.unit,
            "drift_held_out": self.held_out,
        }


class Chooser:
    """Everything that choices about one model share: its sites, their paths, the data in two parts."""

    def __init__(
        self,
        model: LoadedModel,
        data: DataSource | Calibration | None,
        provider: Provider,
        *,
        compensate: bool | None = None,
        effect: Effect | None = None,
        progress: Progress = silent,
    ) -> None:
        """Reads and checks the data; nothing long happens yet.

        Args:
            model: the original.
            data: calibration data, None to go by the weights or by given scores.
            provider: where to run.
            compensate: refit what is left; None does so where there is data.
            effect: the user's measure of drift.
            progress: told what is being done.

        Raises:
            UsageError: if the data does not fit, or compensation is asked for without any.
        """
        self.model = open_model(model)
        self.view = view_of(self.model.proto)
        self.sites = sites_of(self.view, model.name)
        self.provider, self.effect, self.progress = provider, effect, progress
        self.data = None if data is None else calibration_data(data, self.view)
        if compensate and self.data is None:
            raise UsageError("compensation learns from data; give some with --data, --text or --images")
        self.compensate = self.data is not None if compensate is None else compensate
        # A cut of a given size learns from all data; only a limit on drift needs data that no refit has seen.
        self.learn = self.held = self.data

    def ground(
        self, wish: Wish, view: GraphView | None = None, gone: Mapping[int, frozenset[int]] | None = None
    ) -> Ground:
        """The paths that choices follow; with `gone`, from there on, in a model that has lost them already."""
        return ground(
            view or self.view,
            scores=wish.scores,
            data=self.learn,
            limits=wish.limits,
            protect=wish.protect,
            provider=self.provider,
            effect=self.effect,
            progress=self.progress,
            gone=gone,
        )

    def choose(self, wish: Wish) -> Chosen:
        """Heads for a wish, with refitted weights where that is wanted.

        Raises:
            UsageError: if the wish needs data and there is none.
            RefusedError: if it cannot be met.
        """
        if wish.max_drift is not None:
            self.hold_out("a drift is measured on data")
        found = self.ground(wish)
        if wish.ratio is not None:
            found = self._in_rounds(found, wish, found.ratio(wish.ratio).count)
            return self.completed(found.ratio(wish.ratio))
        if wish.keep is not None:
            return self.completed(found.keeping(wish.keep))
        if wish.target_speedup is not None:
            return self._fast_enough(found, wish.target_speedup, wish.sizes or {})
        return self._near_enough(found, wish.max_drift or 0.0)

    def _in_rounds(self, found: Ground, wish: Wish, wanted: int) -> Ground:
        """The paths after all rounds but the last: measured on what the earlier ones left."""
        if wish.rounds > 1 and (not self.compensate or wish.scores is not None):
            raise UsageError("rounds measure and refit again, so they need data, and neither given scores")
        for number in range(1, wish.rounds):
            selection = found.removing(round(wanted * number / wish.rounds))
            left = with_stored(self.model.proto, self.compensation(selection.heads).silenced)
            found = self.ground(wish, view_of(left), self._present(selection))
        return found

    def _present(self, selection: Selection) -> dict[int, frozenset[int]]:
        return {
            site.index: frozenset(_present(site.original_heads, selection.heads.get(site.index, ())))
            for site in self.sites
        }

    def hold_out(self, why: str) -> None:
        """Keeps a part of the data from every refit, so that drift and accuracy on it are honest.

        Raises:
            UsageError: if there is no data.
        """
        if self.data is None:
            raise UsageError(f"{why}; give some with --data, --text or --images")
        self.learn, self.held = self.data.split()

    @property
    def is_held_out(self) -> bool:
        """Whether drift is measured on data that no refit has seen."""
        return self.held is not self.learn

    def completed(self, selection: Selection) -> Chosen:
        """A selection with its compensation and its drift."""
        compensation = self.compensation(selection.heads) if self.compensate else None
        if self.held is None:
            return Chosen(selection)
        drift, unit = self.drift(selection, compensation)
        return Chosen(selection, compensation, (), drift, unit, self.is_held_out)

    def compensation(self, heads: Mapping[int, tuple[int, ...]]) -> Compensation:
        """Refitted weights for a set of heads (indices of the original model)."""
        assert self.learn is not None
        present = self._present(Selection(heads, "given"))
        return compensate(
            self.view, self.sites.sites, present, self.learn, self.provider, progress=self.progress
        )

    def drift(self, selection: Selection, compensation: Compensation | None) -> tuple[float, str]:
        """How far the outputs move, and what that is measured in."""
        assert self.held is not None
        main = require_main(self.view)
        meter = EffectMeter(main, self.held.inputs, self.effect)
        model, io = self.cut(selection, compensation)
        pruned = Session(model, self.provider, name="the pruned model", optimize=True)
        for feed in self.held.feeds:
            before = run_feed(self._original, feed, self.held.source)
            # A cache in the data is as wide as the original's.
            after = run_feed(pruned, narrowed(feed, io), self.held.source)
            meter.add(before, after, feed)
        return meter.mean(), meter.name

    @functools.cached_property
    def _original(self) -> Session:
        return Session(self.model, self.provider, name="the original model", optimize=True)

    def pruned(self, selection: Selection, compensation: Compensation | None) -> LoadedModel:
        """The model without the selected heads."""
        return self.cut(selection, compensation)[0]

    def cut(
        self, selection: Selection, compensation: Compensation | None
    ) -> tuple[LoadedModel, Mapping[str, Live]]:
        """The model without the selected heads, and what is left of each input and output that it narrows."""
        subject = self.model if compensation is None else refitted(self.model, compensation)
        planning = analyse(subject.proto, selection.spec, subject.name)
        proto = surgery.apply_plan(planning.plan, subject.proto)
        return subject.changed(proto, "the pruned model"), planning.io

    def _fast_enough(self, found: Ground, wanted: float, sizes: Mapping[str, Any]) -> Chosen:
        """The smallest cut that reaches a speed-up, by bisection on real pruned models, measured here."""
        trials: list[Trial] = []

        def reaches(count: int) -> bool:
            if not _exists(found, count):
                return False
            speed = speedup(self._benchmark(self.pruned(found.removing(count), None), sizes))
            trials.append(Trial(count, speed, speed >= wanted))
            self.progress(f"measuring: {count} heads less are {speed:.2f} times as fast", len(trials), 0)
            return speed >= wanted

        most = found.most()
        if not reaches(most):
            raise RefusedError(
                f"without all {most} heads that can go the model is {trials[-1].measured:.2f} times as fast,"
                f" not {wanted:g} times"
            )
        chosen = self.completed(found.removing(_smallest(most, reaches)))
        return replace(chosen, trials=tuple(trials))

    def _benchmark(self, pruned: LoadedModel, sizes: Mapping[str, Any]) -> Benchmark:
        settings = {"time_budget": SECONDS, "memory": False, **sizes}
        return benchmark(self.model, pruned, provider=self.provider, **settings)

    def _near_enough(self, found: Ground, allowed: float) -> Chosen:
        """The largest cut that stays within a drift, by bisection on real pruned models."""
        trials: list[Trial] = []
        best: dict[int, Chosen] = {}

        def too_far(count: int) -> bool:
            if not _exists(found, count):
                return False
            chosen = self.completed(found.removing(count))
            drift = chosen.drift or 0.0
            best[count] = chosen
            trials.append(Trial(chosen.selection.count, drift, drift <= allowed))
            self.progress(f"measuring: without {count} heads the drift is {drift:.2g}", len(trials), 0)
            return drift > allowed

        most = found.most()
        count = most if not too_far(most) else _smallest(most, too_far) - 1
        if not trials or not any(trial.meets for trial in trials):
            raise RefusedError(
                f"no cut stays within a drift of {allowed:g}: the smallest drifts {trials[-1].measured:.2g}"
            )
        chosen = best.get(count) or self.completed(found.removing(count))
        return replace(chosen, trials=tuple(trials))


def _exists(found: Ground, count: int) -> bool:
    """Whether some legal cut removes so many heads or fewer; groups of KV heads and multiples can forbid small ones."""
    try:
        return found.removing(count).count > 0
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


def speedup(result: Benchmark) -> float:
    """The least speed-up of the last model over the grid."""
    cells = result.cells_of(len(result.models) - 1)
    return min(cell.comparison.speedup for cell in cells if cell.comparison is not None)


def _present(original: tuple[int, ...], heads: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(original.index(head) for head in heads)


def named(chooser: Chooser, heads: HeadSpec) -> Chosen:
    """Heads that the user named, with refitted weights."""
    chosen = resolve_heads(heads, chooser.sites)
    return chooser.completed(Selection(chosen, "named"))
