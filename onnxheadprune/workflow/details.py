"""Details of a cut, for every writer: its sites, what it changes, the selection, refits, training and fusion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from onnxheadprune.display.facts import Fact, Part, Strip, Table, UnitMap
from onnxheadprune.display.spelling import change, count, file_name, many, reasons, share, size, spelled
from onnxheadprune.edit.edits import EdgeGather
from onnxheadprune.edit.plan import PrunePlan, SiteCut
from onnxheadprune.model.storage.tensors import StoredSize
from onnxheadprune.settings.units import called, kind_at
from onnxheadprune.validation.summary import UNREACHED

if TYPE_CHECKING:
    from onnxheadprune.choosing.compensation.record import Compensation
    from onnxheadprune.data.respelled import Spelling
    from onnxheadprune.fusion.result import Fusion
    from onnxheadprune.workflow.choice.chosen import Chosen


_WORDS = {
    "slice": "tensor cut",
    "constant": "new constant",
    "input": "rewired input",
    "output": "renamed output",
    "drop-inputs": "dropped operand",
    "drop-outputs": "dropped piece",
    "attribute": "changed attribute",
    "dim": "changed dimension",
    "insert": "new node",
    "drop": "dropped node",
    "drop-tensor": "dropped tensor",
}


def plan_details(
    plan: PrunePlan,
    sizes: tuple[StoredSize, StoredSize] | None = None,
    chosen: Chosen | None = None,
    spelling: Spelling | None = None,
    fusion: Fusion | None = None,
) -> Iterator[Part]:
    """The sites that lose units, what the plan changes, the selection, and what was fused.

    Args:
        sizes: those before and after it.
    """
    heads = tuple(_site_row(cut) for cut in plan.cuts if cut.removed)
    if heads:
        yield Table(("#", "site", "removed", "left"), heads, ("left",), ("removed",))
    for units, _, _ in plan.others():
        cuts = [cut for cut in plan.blocks if cut.units == units and cut.removed]
        columns = ("#", cuts[0].kind[1], "removed", "left")
        yield Table(columns, tuple(map(_block_row, cuts)), columns[2:])
    yield from _map(plan, chosen)
    if sizes is not None and sizes[0] != sizes[1]:
        before, after = sizes
        elements = f"{count(before.elements)} -> {count(after.elements)} elements"
        less = change(before.elements, after.elements)
        yield Fact("weights", f"{elements} ({less}), {size(before.bytes)} -> {size(after.bytes)}")
    yield from _vocabulary(plan, spelling)
    yield from _changes(plan)
    yield from choice_details(chosen, plan)
    if fusion is not None:
        yield from _fusion(fusion)


def _more(sentences: Iterable[object], label: str = "") -> Iterator[Fact]:
    """Doubtful sentences below each other; the first one has the label."""
    for sentence in sentences:
        yield Fact(label, str(sentence), "doubtful")
        label = ""


def _site_row(cut: SiteCut) -> tuple[str, ...]:
    before = f" (before: {spelled(cut.removed_before)})" if cut.removed_before else ""
    return cut.called, cut.name, spelled(cut.removed) + before, f"{cut.left} of {cut.num_units}"


def _block_row(cut: SiteCut) -> tuple[str, ...]:
    before = f" (before: {count(len(cut.removed_before))})" if cut.removed_before else ""
    return (
        cut.key,
        cut.name,
        f"{count(len(cut.removed))}{before}",
        f"{count(cut.left)} of {count(cut.num_units)}",
    )


def _map(plan: PrunePlan, chosen: Chosen | None) -> Iterator[Part]:
    """Draw heads and experts of all sites that were scored, or heads of those that lose named ones."""
    scores: Mapping[int, Sequence[float | None]] = {} if chosen is None else chosen.selection.scores
    units, unscored = "heads", "kept, not named"
    if any(value is not None for values in scores.values() for value in values):
        from onnxheadprune.choosing.space import UNTRIED

        unscored = f"kept, {UNTRIED}"
        units = " and ".join(dict.fromkeys(kind_at(index).units for index in scores))
    else:
        scores = {cut.index: (None,) * cut.num_heads for cut in plan.cuts if cut.removed}
    cuts = {cut.called: cut for cut in (*plan.cuts, *plan.blocks)}
    strips = []
    for index, values in scores.items():
        cut = cuts.get(called(index))
        name, gone = ("", ()) if cut is None else (cut.name, (*cut.removed, *cut.removed_before))
        strips.append(Strip(called(index), name, tuple(values), gone))
    if strips:
        total, lost = (
            sum(map(len, each)) for each in zip(*((s.scores, s.gone) for s in strips), strict=True)
        )
        title = f"{file_name(plan.model)}: {lost} of {total} {units} removed"
        yield UnitMap(units, tuple(strips), unscored, title=title)


def _vocabulary(plan: PrunePlan, spelling: Spelling | None) -> Iterator[Part]:
    """The number of kept tokens, their tensors, and the share of the data that is tokenized as before."""
    if plan.vocabulary is None:
        return
    cut = plan.vocabulary
    kept = f"{count(cut.left)} of {many(cut.tokens.rows, 'token')} kept, in {', '.join(cut.tables)}"
    names = ", ".join((*cut.tokens.inputs, *cut.outputs))
    yield Fact("vocabulary", f"{kept}; ids are renumbered in {names}")
    if spelling is not None and spelling.tokens:
        same = f"{share(spelling.unchanged / spelling.tokens)} of {many(spelling.tokens, 'token')} of the data are kept"
        samples = f"{count(spelling.whole)} of {many(spelling.samples, 'sample')} are spelled as before"
        yield Fact("spelling", f"{same}; {samples}")


def _changes(plan: PrunePlan) -> Iterator[Part]:
    if plan.exit is not None:
        found = plan.exit
        behind = f"{many(found.sites, 'attention site')} with {many(found.heads, 'head')}"
        decided = f"decided by {', '.join(found.conditions)}; removes {behind} behind it"
        yield Fact("exit", f"{', '.join(map(str, found.numbers))} of {found.of}, {decided}")
    words = [many(number, _WORDS[kind]) for kind, number in plan.counts().items() if kind in _WORDS]
    if words:
        yield Fact("edits", ", ".join(words))
    yield from _more(map(_gathered, plan.edge_gathers), "run time")
    yield from _more(plan.io_changes, "interface")
    yield from _more((f"{missed.node}: {missed.reason}" for missed in plan.left_out), "left out")


def _gathered(gather: EdgeGather) -> str:
    cost = "" if gather.elements is None else f", {count(gather.elements)} elements"
    return f"{gather.value} -> {gather.node}: {gather.reason}{cost}"


def choice_details(chosen: Chosen | None, plan: PrunePlan) -> Iterator[Part]:
    """The basis of the choice, the trials, the refits, the training, and the drift."""
    if chosen is None:
        return
    yield Fact("chosen by", chosen.selection.basis)
    yield from _more(f"held constant: {line}" for line in reasons(chosen.selection.constant.items()))
    left = {**chosen.selection.left_out, **dict.fromkeys(chosen.unreached, UNREACHED)}
    yield from _more(reasons(left.items()), "left alone")
    counted = "unit" if plan.others() else "head"
    for trial in chosen.trials:
        unit = f" ({chosen.unit})" if chosen.unit else ""
        found = (
            f"{trial.measured:.3g}{unit}" if trial.speed is None else f"{trial.measured:.2f} times as fast"
        )
        word = "meets the target" if trial.meets else "does not"
        yield Fact("", f"{many(trial.removed, counted)}: {found}, {word}")
    if chosen.speed is not None:
        yield Fact("speed", f"{chosen.speed} on {chosen.speed.provider.label}")
    if chosen.compensation is not None:
        yield from _refits(chosen.compensation)
    yield from _recovery(chosen)
    if chosen.drift is not None:
        yield Fact("selection", f"drift {chosen.drift:.3g} ({chosen.unit}) on {chosen.basis.measured_on}")


def _refits(compensation: Compensation) -> Iterator[Part]:
    done, refits = many(len(compensation.done), "linear layer"), compensation.refits
    yield Fact("refitted", f"{done} on {many(compensation.samples, 'sample')}")
    for item in refits:
        if item.stands_in:
            error = f"held-out error of the stream behind {item.before:.3g} -> {item.after:.3g}"
            yield Fact("", f"{item.node} stands in for {', '.join(item.stands_in)}: {error}")
    skipped = reasons((item.node, item.skipped) for item in refits if item.skipped is not None)
    yield from _more(f"not {line}" for line in skipped)
    yield from _more(reasons((item.node, item.limited) for item in refits if item.limited is not None))


def _recovery(chosen: Chosen) -> Iterator[Part]:
    recovery, refit = chosen.recovery, chosen.compensation
    if recovery is None:
        return
    how = f"{recovery.epochs:.3g} epochs of {recovery.kind}, learning rate {recovery.rate:g}"
    trained = f"{many(len(recovery.trained), 'tensor')} in {many(recovery.steps, 'step')} ({how})"
    yield Fact("recovered", trained if recovery.rejected is None else f"nothing: {recovery.rejected}")
    has_refit = refit is not None and refit.samples
    if recovery.rejected is not None:
        on = f", refitted on {many(refit.samples, 'sample')}" if refit is not None and has_refit else ""
        yield from _more([f"tried: {trained}", f"written: the weights without training{on}"])
    own = f"refit: {many(refit.samples, recovery.unit)}; " if refit is not None and has_refit else ""
    yield Fact("", own + recovery.data_words)
    yield Fact("", f"what would help most is {recovery.help_words}")
    if recovery.planned is not None and recovery.planned.call is not None:
        whole = f"of {recovery.planned.call:g} s for the whole call"
        yield Fact("", f"{whole}, {recovery.seconds:.3g} s of training")
    losses = f"{recovery.before:.3g} -> {recovery.after:.3g}"
    taken = f"of step {recovery.best}" if recovery.best else "of the start, since no step made it better"
    text = f"loss on {many(recovery.held_out, 'held-out sample')} {losses}, {taken}"
    yield Fact("", text, "" if recovery.best else "doubtful")
    if recovery.stopped is not None:
        yield from _more([f"ended early: {recovery.stopped}"])
    yield from _more(f"not {line}" for line in reasons(recovery.constant.items()))


def _fusion(fusion: Fusion) -> Iterator[Part]:
    """The fused operator of each site, or the reason why it has none."""
    from onnxheadprune.fusion.result import spell_reasons

    yield Fact("fusion", fusion.summary, "" if fusion.made else "doubtful")
    if fusion.trials:
        kept = "the model unfused" if fusion.chosen == "none" else f"the {fusion.chosen} form"
        yield Fact("", f"measured here, as a ratio to the unfused model; kept is {kept}:")
        for trial in fusion.trials:
            yield Fact("", str(trial), "" if trial.ratios else "doubtful")
    yield from _more(spell_reasons(fusion.sites))
