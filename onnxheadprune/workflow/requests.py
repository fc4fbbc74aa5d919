"""Requests as values: made by the API or a command, and handed down unchanged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from onnxheadprune.attention.io_changes import Contract
from onnxheadprune.attention.specs import combined
from onnxheadprune.errors import UsageError
from onnxheadprune.settings.cutting import AMOUNT, units_of, value_names
from onnxheadprune.settings.inputs import Running
from onnxheadprune.settings.units import SCORED
from onnxheadprune.settings.writing import Storing

if TYPE_CHECKING:
    # Commands make requests before anything heavy is imported.
    from onnxheadprune.attention.specs import HeadSpec
    from onnxheadprune.choosing.compensation.record import Compensation
    from onnxheadprune.choosing.targets import PruningTarget, Requirements
    from onnxheadprune.data.drift import Measure
    from onnxheadprune.fusion.result import FuseMode
    from onnxheadprune.runtime.feeds.samples import DataSource
    from onnxheadprune.settings.calls import Pruning
    from onnxheadprune.settings.cutting import Cut, Recovering, Selecting
    from onnxheadprune.training.budget import Budget
    from onnxheadprune.workflow.choice.chosen import Chosen


@dataclass(frozen=True)
class Tokens:
    """The tokens that are kept, of a model or of a folder."""

    # their ids, or a file with tokens or ids; None for the most frequent ones of the data
    keep: str | os.PathLike[str] | Sequence[int] | None = None
    size: int | None = None  # how many are kept; None for all that `keep` names
    inputs: tuple[str, ...] = ()  # names of the inputs with token ids; without, they are found by dataflow
    rows: int | None = None  # how many tokens there are, where another file of the folder says so
    # names of the outputs with a number for each token; None where the model decides
    logits: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls,
        vocab: str | os.PathLike[str] | Sequence[int] | None,
        vocab_size: int | None,
        token_ids: str | None,
        token_logits: str | None = None,
    ) -> Tokens | None:
        """Return which tokens are kept, by the settings of these names; None where all are."""
        if vocab is None and vocab_size is None:
            return None
        logits = None if token_logits is None else value_names(token_logits)
        return cls(vocab, vocab_size, () if token_ids is None else value_names(token_ids), logits=logits)


@dataclass(frozen=True)
class Choice:
    """Units to remove, and the adjustment of the remaining weights."""

    heads: HeadSpec | None = None  # a head spec; None with a target, or where nothing is cut
    target: PruningTarget | None = None  # how many are to go, in place of `heads`
    refit: bool | None = None  # refit what is left; None does so for a target with data
    effect: Measure | None = None  # the measure of drift; None goes by the kind of output
    recover: Budget | None = None  # how long what is left is trained after that, None for not at all
    resume: bool = False  # go on with an interrupted training, from the file beside the output
    # new numbers of the original that a training starts from, in the place of a refit
    given: Compensation | None = None
    # heads, and refitted weights, that were chosen elsewhere: on another file of the same network
    decided: Chosen | None = None
    # the early exit that is made permanent before anything is chosen or cut, None for none
    exit: int | None = None
    # the tokens that are kept, None for all. The others are removed after the exit, before anything else.
    tokens: Tokens | None = None

    @classmethod
    def of(
        cls, cut: Cut, *, recover: str | None = None, time: str | None = None, resume: bool = False
    ) -> Choice:
        """Return the units or target to remove, and the adjustment of the remaining weights."""
        return cls(
            combined(cut.heads, {units: getattr(cut, units, None) for units in [*SCORED][1:]}, cut.layers),
            _target_of(cut),
            cut.refit,
            measure_of(cut.drift),
            budget_of(recover, time),
            resume,
            exit=cut.exit,
            tokens=Tokens.of(cut.vocab, cut.vocab_size, cut.token_ids, cut.token_logits),
        )

    @classmethod
    def training(cls, how: Recovering, *, resume: bool) -> Choice:
        """Return a training of the remaining weights alone."""
        return cls(effect=measure_of(how.drift), recover=budget_of(how.budget, how.time), resume=resume)


@dataclass(frozen=True)
class Run:
    """Execution provider, data and seed."""

    provider: str = "auto"  # "auto", "cpu", "cuda" or another execution provider's name
    seed: int = 0  # of random inputs
    data: DataSource | None = None  # the user's inputs, None without


@dataclass(frozen=True)
class Proving:
    """Validation that is required before a model is written."""

    validate: bool = True  # compare with the masked reference
    accept_inconclusive: bool = False  # write even if the heads matter too little for a wrong cut to show


@dataclass(frozen=True)
class Writing:
    """Output files of a request."""

    output: str | os.PathLike[str] | None = None  # None writes nothing
    storing: Storing = field(default_factory=Storing)
    # allows `output` to be the model itself, whose file is kept under this name
    backup: str | os.PathLike[str] | None = None
    # of the file with weights beside the output; None makes one from the content
    data_name: str | None = None


@dataclass(frozen=True)
class Request:
    """All that one `prune` is asked for, but for the model."""

    choice: Choice = field(default_factory=Choice)  # which heads go
    contract: Contract = field(default_factory=Contract)  # what may happen to inputs and outputs
    fuse: FuseMode = "none"  # which fused operators attention is written in afterwards
    run: Run = field(default_factory=Run)  # where and on what models run
    proving: Proving = field(default_factory=Proving)  # what must be shown
    writing: Writing = field(default_factory=Writing)  # where the result goes

    @classmethod
    def of(
        cls,
        given: Pruning,
        writing: Writing,
        *,
        resume: bool = False,
    ) -> Request:
        """Return what one cut is asked for: by a command, a job, a function of Python or another tool.

        Its data is read after that (`on`): whatever is wrong in the settings is known before.
        """
        return cls(
            Choice.of(given, recover=given.recover, time=given.time, resume=resume),
            Contract(given.cache, given.allow_io_change),
            given.fuse,
            Run(given.provider, given.seed),
            Proving(given.validate, given.accept_inconclusive),
            writing,
        )

    def on(self, data: DataSource | None) -> Request:
        """The same on the user's inputs."""
        return replace(self, run=replace(self.run, data=data))


def _target_of(cut: Cut) -> PruningTarget | None:
    """Return the target, None where units are named."""
    amounts = {name: getattr(cut, name) for name in AMOUNT.split()}
    if all(amount is None for amount in amounts.values()):
        return None
    from onnxheadprune.choosing.targets import PruningTarget

    return PruningTarget(**vars(requirements_of(cut)), **amounts)


def requirements_of(selecting: Selecting) -> Requirements:
    """Return the settings of the selection."""
    from onnxheadprune.choosing.allocate import Limits
    from onnxheadprune.choosing.scoring.scores import read_scores
    from onnxheadprune.choosing.targets import Requirements

    scores = selecting.scores
    has_data = isinstance(selecting, Running) and selecting.data is not None
    return Requirements(
        scores=read_scores(scores) if isinstance(scores, (str, os.PathLike)) else scores,
        limits=Limits(selecting.min_heads, selecting.multiple_of, selecting.uniform),
        protect=selecting.protect,
        units=frozenset(units_of(selecting, has_data=has_data)),
        method=selecting.method,
    )


def measure_of(drift: Measure | None) -> Measure | None:
    """The measure of drift: "auto", "kl", "cosine", "module:function" or a function; None leaves it to the output."""
    if not isinstance(drift, str):
        return drift
    from onnxheadprune.data.drift import AUTO, MEASURES
    from onnxheadprune.runtime.foreign import import_function

    if drift == AUTO or drift in MEASURES:
        return drift
    if ":" not in drift:
        names = ", ".join(MEASURES)
        raise UsageError(f"a drift is measured by {AUTO}, {names} or module:function, not {drift!r}")
    return import_function(drift, "the measure")


def budget_of(budget: float | str | None, time: str | None = None) -> Budget | None:
    """Return the training budget."""
    if budget is None and time is None:
        return None
    from onnxheadprune.training.budget import Budget, parse_budget, parse_time

    if time is not None:
        return parse_time(time)
    return parse_budget(budget) if isinstance(budget, str) else Budget(epochs=budget)
