"""The training of a student: steps, the held-out loss on the way, and the best of it."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count, islice

import numpy as np

from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.runtime.workers import Workers
from onnxheadprune.training.batches import Batches
from onnxheadprune.training.budget import Budget
from onnxheadprune.training.checkpoint import Checkpoint, State
from onnxheadprune.training.loss import Teacher
from onnxheadprune.training.optimizer import STRENGTH, Adam, Pull
from onnxheadprune.training.parameters import Master, Student
from onnxheadprune.training.rate import STEPS, bearable, find_rate, share_of_rate
from onnxheadprune.training.result import INTERRUPTED, Measured

LEARNED_BETWEEN = 8
"""Training samples per held-out sample between two measurements of the held-out loss. A training sample costs about
four forward passes, so measuring takes some 3 % of a training."""
SEARCH = 0.15
"""Part of a budget of seconds after which no more learning rates are tried."""


@dataclass(frozen=True)
class Plan:
    """The settings of a training."""

    budget: Budget  # how long
    seed: int = 0  # of the order of the data
    progress: Progress = silent  # told of each step
    seconds: float | None = None  # of a budget of time, what is left of it for the training


@dataclass
class Training:
    """A training as it goes."""

    student: Student  # what learns
    teacher: Teacher  # what it learns from
    batches: Batches  # what an epoch runs on
    held: Iterable[Feed]  # batches that no step sees, with the inputs of the loss
    shown: Iterable[Feed]  # some that steps learn from, alike
    plan: Plan  # how it goes
    checkpoint: Checkpoint  # where its state is kept
    judges: int  # samples that no step sees
    best: list[Master] = field(default_factory=list)  # the parameters with the least held-out loss
    stopped: str | None = None  # why it ended early, None if it did not
    state: State = field(default_factory=State)
    resumed: int = 0
    _started: float = 0.0
    _pace: float = math.inf
    """Seconds of a step."""

    def run(self, resume: bool = False) -> None:
        """Train until the budget is spent; Ctrl-C ends it with the best so far."""
        self._started = time.monotonic()
        self.adam = Adam(self.student.masters)
        self._pull = None if self.batches.neighbours is None else Pull(self.student.masters)
        try:
            if resume:
                self._resume()
            else:
                self._begin()
            while not self.stopped and self._progress() < 1:
                self._round()
            if not self.stopped and self.state.step > self.state.curve[-1].step:
                self._measure()
        except KeyboardInterrupt:
            if not self.state.curve:
                raise
            self.stopped = INTERRUPTED
        self.student.take(self.best)
        self.state.learned = self._loss_on(self.shown)
        self.state.seconds = self._seconds()

    def _begin(self) -> None:
        self.best = self.student.copy()
        self.state.curve.append(Measured(0, self.held_loss()))
        self.state.unlearned = self._loss_on(self.shown)
        self.state.rate, trials = find_rate(self._tried, self._bearable, self._is_late)
        self.state.trials = dict(trials)
        self._restart()
        self.state.searched = self._seconds()
        self.state.planned = self._planned()

    def _restart(self) -> None:
        self.student.take(self.best)
        self.adam.reset()

    def _resume(self) -> None:
        self.state = self.checkpoint.read()
        arrays = self.state.arrays
        self.student.take(arrays["parameters"])
        self.best = [np.array(array) for array in arrays["best"]]
        self.adam.take([*arrays["means"], *arrays["squares"]], self.state.taken)
        self._started -= self.state.seconds
        self.resumed = self.state.step
        self.batches.left_out = Counter(self.state.left_out)

    def _tried(self, rate: float) -> float:
        """The held-out loss after a few steps with a rate."""
        self._restart()
        random = np.random.default_rng([self.plan.seed, 1])
        rounds = chain.from_iterable(self.batches.round(number, random) for number in count())
        step, since = 0, time.monotonic()
        for feed in self._taught(islice(rounds, STEPS)):
            if self._is_late():
                break
            if not math.isfinite(self._step(feed, rate * share_of_rate((step + 1) / (STEPS + 1)))):
                return math.inf
            step += 1
        self._pace = (time.monotonic() - since) / max(step, 1)
        self.plan.progress(f"looking for a learning rate: {rate:g}", 0, 0)
        return self.held_loss()

    def _bearable(self) -> float:
        """The largest loss after a test of a rate that the training makes good."""
        return bearable(self.state.curve[0].loss, self._planned())

    def _planned(self) -> int:
        """Steps that fit into the budget, as far as that is known."""
        seconds = self.plan.seconds
        if seconds is None:
            return self.steps
        return max(round((seconds - self._seconds()) / self._pace), 1)

    def _is_late(self) -> bool:
        """Return whether a part of the time that a search may take is spent."""
        seconds = self.plan.seconds
        return seconds is not None and self._seconds() > SEARCH * seconds

    def _round(self) -> None:
        state = self.state
        random = np.random.default_rng([self.plan.seed, 2, state.epoch])
        pull = self._pull if self.batches.is_again(state.epoch) else None
        for feed in self._taught(self.batches.round(state.epoch, random)):
            progress = self._progress()
            if progress >= 1:
                break
            share = share_of_rate(self._within(progress))
            loss = self._step(feed, state.rate * share)
            state.step += 1
            state.samples += self.batches.rows(feed)
            if not math.isfinite(loss):
                self.stopped = f"the loss of step {state.step} is {loss}"
                return
            if pull is not None:
                pull.add(STRENGTH * share / state.planned, state.step)
            self._show(loss)
        if pull is not None:
            pull.settle()
        state.epoch += 1
        if self._is_due():
            self._measure()
        if self.checkpoint.path is not None:
            self.checkpoint.write(self._kept())

    def _taught(self, feeds: Iterable[Feed]) -> Iterator[Feed]:
        """Batches with the inputs of the loss. The teacher runs two batches ahead, since steps leave cores idle."""
        return Workers(2).each(lambda feed: {**feed, **self.teacher.targets(feed)}, feeds)

    def _step(self, feed: Feed, rate: float) -> float:
        loss, gradients = self.student.slope(feed)
        if math.isfinite(loss):
            self.adam.step(gradients, rate)
        return loss

    def _is_due(self) -> bool:
        """Return whether enough samples were trained on since the last measurement of the held-out loss."""
        learned = (self.state.step - self.state.curve[-1].step) * self.batches.most
        return learned >= LEARNED_BETWEEN * self.judges

    def _measure(self) -> None:
        loss = self.held_loss()
        self.state.curve.append(Measured(self.state.step, loss))
        least = min(item.loss for item in self.state.curve[:-1])
        if loss < least:
            self.state.best, self.best = self.state.step, self.student.copy()

    def held_loss(self) -> float:
        """The mean loss on data that no step has seen; infinite where it is no number."""
        return self._loss_on(self.held)

    def _loss_on(self, feeds: Iterable[Feed]) -> float:
        losses, sizes = zip(
            *((self.student.loss(feed), self.batches.rows(feed)) for feed in feeds), strict=True
        )
        found = float(np.average(losses, weights=sizes))
        return found if math.isfinite(found) else math.inf

    def _kept(self) -> State:
        self.state.arrays = {
            "parameters": self.student.copy(),
            "means": self.adam.means,
            "squares": self.adam.squares,
            "best": self.best,
        }
        self.state.taken = self.adam.steps
        self.state.left_out = dict(self.batches.left_out)
        self.state.seconds = self._seconds()
        return self.state

    def _progress(self) -> float:
        """0 at the first step, 1 at the end."""
        seconds = self.plan.seconds
        if seconds is not None:
            before = self.state.searched
            return (self._seconds() - before) / max(seconds - before, 1e-9)
        return self.state.step / self.steps

    def _within(self, share: float) -> float:
        """Return where in the rise and fall of the rate a step is; the first and the last one count too."""
        return share if self.plan.seconds is not None else (self.state.step + 1) / (self.steps + 1)

    @property
    def steps(self) -> int:
        """Steps of a budget of epochs."""
        return max(1, round((self.plan.budget.epochs or 0.0) * self.batches.count))

    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def _show(self, loss: float) -> None:
        held = self.state.curve[-1].loss
        seconds = self.plan.seconds
        done, total = (self.state.step, self.steps) if seconds is None else (self._seconds(), seconds)
        # Of a budget of epochs the steps are what is counted.
        step = "" if seconds is None else f"step {self.state.step}, "
        what = f"recovering: {step}loss {loss:.3g}, held out {held:.3g}"
        self.plan.progress(what, round(done), round(total))
