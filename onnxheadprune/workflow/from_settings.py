"""From settings to requests: the command line, jobs and Olive set the same things."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxheadprune.attention.io_changes import Contract
from onnxheadprune.attention.units import combined
from onnxheadprune.settings.cutting import AMOUNT
from onnxheadprune.workflow.requests import Choice, Proving, Request, Run, Writing, tokens_of

if TYPE_CHECKING:
    from onnxheadprune.choosing.wishes import Requirements, Wish
    from onnxheadprune.data.drift import Measure
    from onnxheadprune.settings.cutting import Cut, Selecting
    from onnxheadprune.training.budget import Budget


def choice_of(
    cut: Cut, *, recover: str | None = None, time: str | None = None, resume: bool = False
) -> Choice:
    """Return what to remove, and how the remaining weights are adjusted.

    Raises:
        UsageError: if scores, a measure or a spec cannot be read.
    """
    return Choice(
        combined(cut.heads, {"neurons": cut.neurons, "experts": cut.experts}, cut.layers),
        _wish_of(cut),
        cut.refit,
        measure_of(cut.drift),
        budget_of(recover, time),
        resume,
        exit=cut.exit,
        tokens=tokens_of(cut.vocab, cut.vocab_size, cut.token_ids),
    )


def _wish_of(cut: Cut) -> Wish | None:
    """Return how much to remove, None where units are named.

    Raises:
        UsageError: if the scores cannot be read, or settings contradict each other.
    """
    amounts = {name: getattr(cut, name) for name in AMOUNT.split()}
    if all(amount is None for amount in amounts.values()):
        return None
    from onnxheadprune.choosing.wishes import Wish

    return Wish(**vars(requirements_of(cut)), **amounts)


def requirements_of(selecting: Selecting) -> Requirements:
    """Return how units are selected.

    Raises:
        UsageError: if the scores cannot be read, or settings contradict each other.
    """
    from onnxheadprune.choosing.allocate import Limits
    from onnxheadprune.choosing.scoring.score_files import read_scores
    from onnxheadprune.choosing.wishes import Requirements

    return Requirements(
        scores=None if selecting.scores is None else read_scores(selecting.scores),
        limits=Limits(selecting.min_heads, selecting.multiple_of, selecting.uniform),
        protect=selecting.protect,
        units=frozenset(selecting.units),
        method=selecting.method,
    )


def request_of(cut: Cut, choice: Choice, run: Run, proving: Proving, writing: Writing) -> Request:
    """Return what one `prune` is asked for; `choice` is that of the cut, and may say more."""
    return Request(choice, Contract(cut.cache, cut.allow_io_change), cut.fuse, run, proving, writing)


def measure_of(drift: str | None) -> Measure | None:
    """The measure of drift; None leaves it to the kind of output.

    Raises:
        UsageError: if there is no such measure, or a function cannot be imported.
    """
    if drift is None:
        return None
    from onnxheadprune.data.drift import named_measure

    return named_measure(drift)


def budget_of(budget: float | str | None, time: str | None = None) -> Budget | None:
    """Return how long to train.

    Raises:
        UsageError: if it is neither a number of epochs nor a time.
    """
    if budget is None and time is None:
        return None
    from onnxheadprune.training.budget import Budget, parse_budget, parse_time

    if time is not None:
        return parse_time(time)
    return parse_budget(budget) if isinstance(budget, str) else Budget(epochs=budget)
