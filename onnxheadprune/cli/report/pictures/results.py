"""The map of heads of whatever knows about heads: scores, or a cut."""

from __future__ import annotations

from pathlib import PurePath

from onnxheadprune.cli.report.choice import heat_of
from onnxheadprune.cli.report.heatmap import Removed, Scores
from onnxheadprune.cli.report.pictures.heads import heads_picture
from onnxheadprune.cli.report.pictures.style import Picture
from onnxheadprune.selection.scoring.scores import HeadScores
from onnxheadprune.workflow.result import PruneResult


def plot_heads(found: HeadScores | PruneResult) -> Picture:
    """A square per head, one row per site: what it is worth, and whether it is gone.

    Args:
        found: scores, or a pruned model; heads that were named by the user have no worth.
    """
    if isinstance(found, HeadScores):
        title = f"{PurePath(found.model).name}: {found.method}"
        return heads_picture(found.by_site(), title=title, unit=found.unit, unscored="gone already")
    plan = found.plan
    gone = sum(len(cut.removed) for cut in plan.cuts)
    title = f"{PurePath(plan.model).name}: {gone} of {sum(cut.num_heads for cut in plan.cuts)} heads removed"
    scores, removed = _cuts(found)
    return heads_picture(scores, removed, title)


def _cuts(found: PruneResult) -> tuple[Scores, Removed]:
    """Scores and removed heads per site of a cut."""
    if found.chosen is not None:
        scores, removed = heat_of(found.chosen, found.plan)
        if any(value is not None for values in scores.values() for value in values):
            return scores, removed
    named = {f"{cut.called} {cut.name}": cut for cut in found.plan.cuts}
    return (
        {name: (None,) * cut.num_heads for name, cut in named.items()},
        {name: (*cut.removed_before, *cut.removed) for name, cut in named.items()},
    )
