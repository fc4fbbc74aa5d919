"""A cut, as a notebook shows it."""

from __future__ import annotations

from collections.abc import Sequence

from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.edit.ranges import spelled
from onnxheadprune.edit.site_cuts import SiteCut
from onnxheadprune.model.notebook import DOUBTFUL, Html, card, line, squares, table
from onnxheadprune.model.spelling import change, count, file_name, many, size
from onnxheadprune.model.storage.tensors import StoredSize
from onnxheadprune.validation.headline import Headline
from onnxheadprune.validation.result import Validation
from onnxheadprune.workflow.choice.chosen import Chosen


def cut_html(
    plan: PrunePlan,
    sizes: tuple[StoredSize, StoredSize],
    headline: Headline,
    validation: Validation | None,
    chosen: Chosen | None,
    warnings: Sequence[str],
) -> str:
    """Return what was removed, from what to what, and whether that was proven.

    Args:
        plan: of the cut.
        sizes: of the stored tensors, before and after.
        headline: whether it is exact, good enough and accepted.
        validation: the verdict, None if it was skipped.
        chosen: how heads were chosen, None if they were named.
        warnings: what a reader should know, one sentence each.
    """
    gone, total = sum(len(cut.removed) for cut in plan.cuts), sum(_present(cut) for cut in plan.cuts)
    before, after = sizes
    rows = [
        ("heads", count(total), count(total - gone), change(total, total - gone)),
        (
            "stored elements",
            count(before.elements),
            count(after.elements),
            change(before.elements, after.elements),
        ),
        ("bytes of weights", size(before.bytes), size(after.bytes), change(before.bytes, after.bytes)),
    ]
    title = f"{file_name(plan.model)}: {many(gone, 'head')} of {total} removed"
    for position, (units, lost, left) in enumerate(plan.others(), 1):
        title += f", {many(lost, units.removesuffix('s'))}"
        rows.insert(position, (units, count(lost + left), count(left), change(lost + left, left)))
    return card(
        title,
        *headline.lines(),
        table(("", "before", "after", "change"), rows, ("before", "after", "change")),
        table(("#", "site", "removed", "heads"), map(_site, plan.cuts)),
        line("chosen by", chosen.selection.basis) if chosen is not None else None,
        _drift(chosen),
        line("validation", "skipped: nothing was compared", DOUBTFUL)
        if validation is None
        else validation.verdict_line(),
        *(line("warning", sentence, DOUBTFUL) for sentence in warnings),
    )


def _present(cut: SiteCut) -> int:
    """Heads that were there before the cut."""
    return cut.num_heads - len(cut.removed_before)


def _site(cut: SiteCut) -> tuple[str | Html, ...]:
    gone = {*cut.removed, *cut.removed_before}
    drawn = squares([None if head in gone else 0.5 for head in range(cut.num_heads)], gone)
    return cut.called, cut.name, spelled(cut.removed) or "-", drawn


def _drift(chosen: Chosen | None) -> Html | None:
    if chosen is None or chosen.drift is None:
        return None
    return line("selection drift", f"{chosen.drift:.3g} ({chosen.unit}) on {chosen.measured_on}")
