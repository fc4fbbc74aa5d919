"""Options that say how many heads are to go, and what to respect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, get_args

import click

from onnxheadprune.cli.options import FILE, stacked

if TYPE_CHECKING:
    from onnxheadprune.selection import Requirements
    from onnxheadprune.selection.activations.drift import Measure
    from onnxheadprune.selection.recovery import Budget
    from onnxheadprune.selection.wishes import Wish

Function = TypeVar("Function", bound=Callable[..., object])
# As `selection.scoring` has it: importing that would load onnx for every --help.
Method: TypeAlias = Literal[
    "weight", "activation", "fluctuation", "reconstruction", "ablation", "fisher", "taylor"
]


@dataclass(frozen=True)
class Amount:
    """How many heads are to go, said in one of several ways."""

    ratio: float | None
    keep: int | None
    target_speedup: float | None
    max_drift: float | None

    @property
    def ways(self) -> list[str]:
        """The options of which one makes a wish, those that are given."""
        ways = {
            "--ratio": self.ratio,
            "--keep": self.keep,
            "--target-speedup": self.target_speedup,
            "--max-drift": self.max_drift,
        }
        return [spelled for spelled, value in ways.items() if value is not None]


def amount_options(function: Function) -> Function:
    """The options of `Amount`."""
    options = (
        click.option(
            "--ratio", type=float, metavar="R", help="Share of all heads to remove, 0.25 for a quarter."
        ),
        click.option("--keep", type=int, metavar="N", help="Heads that every site keeps."),
        click.option(
            "--target-speedup",
            type=float,
            metavar="X",
            help="The smallest cut that is X times as fast at every size, measured here on --provider as bench does.",
        ),
        click.option(
            "--max-drift",
            type=float,
            metavar="X",
            help="The largest cut whose drift stays at or below X, on held-out data and on all of it; see --drift.",
        ),
    )
    return stacked(function, options)


@dataclass(frozen=True)
class Respecting:
    """What a choice goes by and what it respects."""

    scores: Path | None
    method: Method | None
    protect: str | None
    floor: int
    multiple_of: int
    neurons_multiple_of: int
    units: str
    uniform: bool


def method_option(told: str) -> Callable[[Function], Function]:
    """`--method`, which `score` and choices have.

    Args:
        told: what it is for.
    """
    return click.option("--method", type=click.Choice(get_args(Method)), help=told)


def respecting_options(function: Function) -> Function:
    """The options of `Respecting`."""
    options = (
        click.option(
            "--scores",
            type=FILE,
            metavar="FILE",
            help="What heads and other units are worth: of `score`, or CSV or JSON of your own.",
        ),
        method_option("Score what may go by this method on the data, as `score` does, and go by that."),
        click.option("--uniform", is_flag=True, help="Every site loses the same share of its heads."),
        click.option(
            "--multiple-of",
            type=click.IntRange(min=1),
            default=1,
            metavar="N",
            help="Heads that a site keeps are a multiple of N.",
        ),
        click.option(
            "--neurons-multiple-of",
            type=click.IntRange(min=1),
            default=8,
            show_default=True,
            metavar="N",
            help="Neurons that a feed-forward block keeps are a multiple of N.",
        ),
        click.option(
            "--units",
            default="heads",
            show_default=True,
            metavar="KINDS",
            help='What may go: "heads", "neurons" and "layers" (attention or feed-forward blocks as a whole) with'
            ' commas between, or "all". With more than heads, --ratio is the share of these blocks\' operations.',
        ),
        click.option(
            "--floor",
            type=click.IntRange(min=0),
            default=1,
            show_default=True,
            metavar="N",
            help="Heads that every site keeps at least; with 0 whole sites may go.",
        ),
        click.option(
            "--protect",
            metavar="H",
            help='Heads that stay, a head spec; a bare site ("0 5:1,2") means all of its heads.',
        ),
    )
    return stacked(function, options)


@dataclass(frozen=True)
class Refitting:
    """Whether what is left is refitted and trained, and the measure of drift."""

    compensate: bool | None
    recover: str | None
    drift: str | None


def refitting_options(function: Function) -> Function:
    """The options of `Refitting`."""
    options = (
        click.option(
            "--compensate/--no-compensate",
            default=None,
            help="Refit what is left to the original's activations [default: where heads are chosen on data].",
        ),
        recover_option,
        drift_option,
    )
    return stacked(function, options)


def recover_option(function: Function) -> Function:
    """`--recover`."""
    return click.option(
        "--recover",
        metavar="N|Ts",
        help="Then train what is left on the data to give what the original gives: N epochs, or a time like 90s or 5m.",
    )(function)


def resume_option(function: Function) -> Function:
    """`--resume`."""
    return click.option(
        "--resume", is_flag=True, help="Go on with an interrupted --recover, from the file OUT.recovery."
    )(function)


def read_recover(text: str | None) -> Budget | None:
    """The budget that `--recover` names.

    Raises:
        UsageError: if it is none.
    """
    if text is None:
        return None
    from onnxheadprune.selection.recovery import parse_budget

    return parse_budget(text)


def drift_option(function: Function) -> Function:
    """`--drift`, the same in `prune` and `validate`."""
    return click.option(
        "--drift",
        metavar="M",
        help="What drift is measured in: kl (divergence of distributions, nats per position), cosine (1 - cosine),"
        " auto (kl for logits, else cosine), or module:function of your own, called with (before, after, feed);"
        " larger is worse [default: auto].",
    )(function)


def read_wish(amount: Amount, respecting: Respecting) -> Wish | None:
    """The wish that the options make, None for none.

    Raises:
        UsageError: if they contradict each other.
    """
    if not amount.ways:
        return None
    if len(amount.ways) > 1:
        spelled = " and ".join(amount.ways)
        raise click.UsageError(f"{spelled} are two wishes; give one", click.get_current_context())
    from onnxheadprune.selection.wishes import Wish

    wanted = read_requirements(respecting)
    return Wish(
        ratio=amount.ratio,
        keep=amount.keep,
        target_speedup=amount.target_speedup,
        max_drift=amount.max_drift,
        scores=wanted.scores,
        limits=wanted.limits,
        protect=wanted.protect,
        units=wanted.units,
        multiple_of_neurons=wanted.multiple_of_neurons,
        method=wanted.method,
    )


def read_requirements(respecting: Respecting) -> Requirements:
    """What a choice goes by and respects, as the options say it.

    Raises:
        UsageError: if the scores cannot be read, or a limit makes no sense.
    """
    from onnxheadprune.selection import Limits, Requirements
    from onnxheadprune.selection.scoring import read_scores

    scores = None if respecting.scores is None else read_scores(respecting.scores)
    limits = Limits(respecting.floor, respecting.multiple_of, respecting.uniform)
    return Requirements(
        scores,
        limits,
        respecting.protect,
        units=read_units(respecting.units),
        multiple_of_neurons=respecting.neurons_multiple_of,
        method=respecting.method,
    )


def read_units(text: str) -> frozenset[str]:
    """The kinds of units that `--units` names.

    Raises:
        click.UsageError: if there is no such kind.
    """
    from onnxheadprune.selection.kinds import wishable

    known = wishable()
    named = frozenset(known) if text.strip() == "all" else frozenset(map(str.strip, text.split(",")))
    if not named <= set(known):
        strange = ", ".join(sorted(named - set(known))) or "nothing"
        raise click.UsageError(
            f"--units are {', '.join(known)} or all, not {strange}", click.get_current_context()
        )
    return named


def read_effect(drift: str | None) -> Measure | None:
    """The measure of drift that `--drift` names.

    Raises:
        UsageError: if there is no such measure, or a function cannot be imported.
    """
    if drift is None:
        return None
    from onnxheadprune.selection.activations.drift import named_measure

    return named_measure(drift)


def require_one_way(named: bool, wish: Wish | None, fuse: str, *, leaves: bool = False) -> None:
    """Whether it is said, once, what is to be done.

    Raises:
        click.UsageError: if not.
    """
    context = click.get_current_context()
    if named and wish is not None:
        raise click.UsageError("name the heads, or say how many are to go, not both", context)
    if not named and wish is None and fuse == "none" and not leaves:
        raise click.UsageError(
            "name the heads to remove with --heads, say how many are to go with --ratio, or fuse with --fuse",
            context,
        )


def check_folder(output: Path) -> None:
    """Whether the folder of an output is there; asked before long work.

    Raises:
        UsageError: if not.
    """
    from onnxheadprune.errors import UsageError

    if not output.parent.is_dir():
        raise UsageError(f"the folder {output.parent} does not exist")


def score_path(output: Path) -> Path:
    """Where finished parts of a long scoring are kept."""
    return output.with_name(f"{output.name}.partial")
