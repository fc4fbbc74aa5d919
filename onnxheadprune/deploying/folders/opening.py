"""A folder as it is opened: its models, and which of their sites are the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxheadprune.attention.sites.kinds import every_kind
from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.attention.units import kinds_named
from onnxheadprune.choosing.kinds import LAYERS
from onnxheadprune.deploying.folders.export import Export, open_export
from onnxheadprune.deploying.folders.matching import HEADS_ALONE, Match, matched
from onnxheadprune.errors import RefusedError
from onnxheadprune.workflow.requests import Choice


def opened(
    root: Path, *, follow_links: bool = False, kinds: Sequence[type[Site]] = HEADS_ALONE
) -> tuple[Export, Match]:
    """The models of a folder, and which of their sites are the same.

    Args:
        root: the folder.
        follow_links: read files through links that lead out of it.
        kinds: the kinds of sites in which its files must agree.

    Raises:
        UsageError: if there is no model in it.
        ModelError: if one cannot be read.
        RefusedError: if they do not belong together, or have no site of these kinds.
    """
    export = open_export(root, follow_links=follow_links)
    return export, _some(root, matched(export, kinds))


def looked_at(root: Path, *, follow_links: bool = False) -> tuple[Export, Match, str | None]:
    """The same for whoever only looks: where files disagree in other kinds than heads, without these, and why.

    Raises:
        HeadPruneError: as `opened` does.
    """
    export = open_export(root, follow_links=follow_links)
    try:
        match, why = matched(export, every_kind()), None
    except RefusedError as error:
        match, why = matched(export), str(error)
    return export, _some(root, match), why


def kinds_asked(choice: Choice) -> tuple[type[Site], ...]:
    """The kinds of sites of which some may lose units.

    Args:
        choice: what goes.

    Raises:
        UsageError: if it cannot be read.
    """
    if choice.wish is None:
        return () if choice.heads is None else kinds_named(choice.heads)
    units = choice.wish.units
    return tuple(
        kind for kind in every_kind() if kind.UNITS in units or (LAYERS in units and bool(kind.LAYER))
    )


def _some(root: Path, match: Match) -> Match:
    """The match, if there is anything in it.

    Raises:
        RefusedError: if not.
    """
    if not match.sites:
        titles = " or ".join(kind.TITLE for kind in match.kinds)
        raise RefusedError(
            f"no model of {root} has an {titles}: no contraction with weights sums over the heads of a product of two"
            " activations" + (", or over other units that can go" if len(match.kinds) > 1 else "")
        )
    return match
