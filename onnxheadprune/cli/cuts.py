"""What `prune` and `batch` ask of each model: the options of a cut, and the request that they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from onnxheadprune.cli.choosing import (
    Amount,
    Refitting,
    Respecting,
    amount_options,
    read_effect,
    read_recover,
    read_wish,
    refitting_options,
    require_one_way,
    respecting_options,
)
from onnxheadprune.cli.options import (
    Checking,
    Fusing,
    Running,
    Shaping,
    checking_options,
    fuse_option,
    run_options,
    shaping_options,
    stacked,
    units_options,
)

if TYPE_CHECKING:
    from onnxheadprune.runtime.feeds import DataSource
    from onnxheadprune.workflow.requests import Choice, Request, Writing

Function = TypeVar("Function", bound=Callable[..., object])


@dataclass(frozen=True)
class Cut:
    """Which heads go, what makes up for them, and what must hold of the result."""

    heads: str | None
    neurons: str | None
    layers: str | None
    exit: int | None
    amount: Amount
    respecting: Respecting
    refitting: Refitting
    running: Running
    fuse: Fusing
    shaping: Shaping
    checking: Checking


def cut_options(function: Function) -> Function:
    """The options of `Cut`."""
    options = (
        units_options,
        amount_options,
        respecting_options,
        refitting_options,
        run_options,
        fuse_option,
        shaping_options,
        checking_options,
    )
    return stacked(function, options)


def read_choice(cut: Cut) -> Choice:
    """Which heads go, as the options say it.

    Raises:
        click.UsageError: if they do not say it, or say it twice.
        UsageError: if scores or a measure cannot be read.
    """
    from onnxheadprune.attention.units import combined
    from onnxheadprune.workflow.requests import Choice

    wish = read_wish(cut.amount, cut.respecting)
    effect = read_effect(cut.refitting.drift)
    spec = combined(cut.heads, {"neurons": cut.neurons}, cut.layers)
    require_one_way(spec is not None, wish, cut.fuse, leaves=cut.exit is not None)
    refitting = cut.refitting
    recover = read_recover(refitting.recover)
    return Choice(spec, wish, refitting.compensate, effect, recover, exit=cut.exit)


def request_of(cut: Cut, choice: Choice, data: DataSource | None, writing: Writing) -> Request:
    """All that is asked for.

    Args:
        cut: the options.
        choice: what `read_choice` made of them.
        data: the user's inputs.
        writing: where the result goes.
    """
    from onnxheadprune.attention.contract import Contract
    from onnxheadprune.workflow.requests import Proving, Request, Run

    return Request(
        choice,
        Contract(cut.shaping.keep_cache_shape, cut.shaping.allow_io_change, cut.shaping.renumber_cache),
        cut.fuse,
        Run(cut.running.provider, cut.running.seed, data),
        Proving(not cut.checking.no_validate, cut.checking.accept_inconclusive),
        writing,
    )
