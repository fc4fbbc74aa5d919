"""Options that say how many heads are to go, and what to respect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from onnxheadprune.cli.options import FILE, stacked

if TYPE_CHECKING:
    from onnxheadprune.selection.wishes import Wish

Function = TypeVar("Function", bound=Callable[..., Any])
WAYS = ("ratio", "keep", "target_speedup", "max_drift")
LIMITS = ("floor", "multiple_of", "uniform")


def choosing_options(function: Function) -> Function:
    """`--ratio` and its companions."""
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
        click.option(
            "--scores",
            type=FILE,
            metavar="FILE",
            help="What heads are worth: of `score`, or CSV or JSON of your own.",
        ),
        click.option(
            "--compensate/--no-compensate",
            default=None,
            help="Refit what is left to the original's activations [default: where heads are chosen on data].",
        ),
        click.option(
            "--rounds",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            metavar="N",
            help="Reach --ratio in N rounds; what is left is refitted and measured again before each.",
        ),
        click.option("--uniform", is_flag=True, help="Every site loses the same share of its heads."),
        click.option(
            "--multiple-of",
            type=click.IntRange(min=1),
            default=1,
            metavar="N",
            help="Heads that a site keeps are a multiple of N.",
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
        click.option(
            "--effect",
            metavar="M:F",
            help="The same as --drift M:F.",
        ),
    )
    return drift_option(stacked(function, options))


def drift_option(function: Function) -> Function:
    """`--drift`, the same in `prune` and `validate`."""
    return click.option(
        "--drift",
        metavar="M",
        help="What drift is measured in: kl (divergence of distributions, nats per position), cosine (1 - cosine),"
        " auto (kl for logits, else cosine), or module:function of your own, called with (before, after, feed);"
        " larger is worse [default: auto].",
    )(function)


def read_wish(settings: dict[str, Any]) -> Wish | None:
    """The wish that the options make, None for none. Takes them out of the settings.

    Raises:
        UsageError: if they contradict each other.
    """
    ways = {name: settings.pop(name) for name in WAYS}
    limits = {name: settings.pop(name) for name in LIMITS}
    path, protect, rounds = settings.pop("scores"), settings.pop("protect"), settings.pop("rounds")
    given = [name for name in WAYS if ways[name] is not None]
    context = click.get_current_context()
    if not given:
        return None
    if len(given) > 1:
        spelled = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise click.UsageError(f"{spelled} are two wishes; give one", context)
    from onnxheadprune.selection import Limits
    from onnxheadprune.selection.scoring import read_scores
    from onnxheadprune.selection.wishes import Wish

    scores = None if path is None else read_scores(path)
    return Wish(**ways, scores=scores, limits=Limits(**limits), protect=protect, rounds=rounds)


def read_effect(settings: dict[str, Any]) -> Callable[..., float] | str | None:
    """The measure of drift that `--drift` or `--effect` names. Takes them out of the settings.

    Raises:
        UsageError: if both are given, there is no such measure, or a function cannot be imported.
    """
    spec, name = settings.pop("effect", None), settings.pop("drift", None)
    if spec is not None and name is not None:
        raise click.UsageError("--drift and --effect name the same; give one", click.get_current_context())
    if name in ("auto", "kl", "cosine"):
        return str(name)
    spec = spec or name
    if spec is None:
        return None
    from onnxheadprune.errors import UsageError
    from onnxheadprune.runtime.feeds.data import import_function

    if ":" not in spec:
        raise UsageError(f"a drift is measured by auto, kl, cosine or module:function, not {spec!r}")

    effect: Callable[..., float] = import_function(spec, "the measure")
    return effect


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
