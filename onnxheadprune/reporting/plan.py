"""The report of `prune`: what goes, what it saves, what changes at the edges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType

from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.edit.site_cuts import BlockCut
from onnxheadprune.model.spelling import change, count, many, size, spelled
from onnxheadprune.model.storage.tensors import StoredSize
from onnxheadprune.reporting.console import bullet, heading, row, table
from onnxheadprune.reporting.validation import headline_rows, provider_rows, verdict_rows
from onnxheadprune.workflow.result import size_warnings

if TYPE_CHECKING:
    from onnxheadprune.data.respelled import Spelling
    from onnxheadprune.fusion.result import Fusion
    from onnxheadprune.workflow.choice.chosen import Chosen
    from onnxheadprune.workflow.result import PruneResult


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


def plan_report(
    plan: PrunePlan,
    chosen: Chosen | None = None,
    sizes: tuple[StoredSize, StoredSize] | None = None,
    spelling: Spelling | None = None,
) -> Iterator[RenderableType]:
    """Table of the sites that lose heads, and what the plan changes; `sizes` are those before and after it."""
    yield _heading(plan)
    yield from _cuts(plan)
    if sizes is not None:
        yield from _sizes(*sizes)
        if plan.changes_something:
            yield from _warnings(size_warnings(*sizes))
    yield from _vocabulary(plan, spelling)
    yield from _changes(plan)
    yield from _choice(chosen, plan)


def _vocabulary(plan: PrunePlan, spelling: Spelling | None) -> Iterator[RenderableType]:
    if plan.vocabulary is not None:
        from onnxheadprune.reporting.sites import vocabulary_rows

        yield from vocabulary_rows(plan, spelling)


def _choice(chosen: Chosen | None, plan: PrunePlan) -> Iterator[RenderableType]:
    if chosen is not None:
        from onnxheadprune.reporting.choice import choice_rows

        yield from choice_rows(chosen, plan)


def _heading(plan: PrunePlan) -> RenderableType:
    gone = sum(len(cut.removed) for cut in plan.cuts)
    before = sum(cut.num_heads - len(cut.removed_before) for cut in plan.cuts)
    others = [f"removing {many(lost, units.removesuffix('s'))}" for units, lost, _ in plan.others()]
    heads = f"removing {gone} of {many(before, 'head')}" if gone else f"all {many(before, 'head')} stay"
    rest = [] if plan.exit is None else [f"exit {', '.join(map(str, plan.exit.numbers))} permanent"]
    if plan.vocabulary is not None:
        tokens = plan.vocabulary.tokens.rows
        rest.append(f"removing {count(tokens - plan.vocabulary.left)} of {many(tokens, 'token')}")
    # Of a model of other units alone, or of a cut of tokens alone, nothing is said of heads.
    unsaid = not gone and (not before if others else plan.vocabulary is not None)
    return heading(f"{plan.model}: {', '.join([*([] if unsaid else [heads]), *others, *rest])}")


def _cuts(plan: PrunePlan) -> Iterator[RenderableType]:
    yield ""
    if any(cut.removed for cut in plan.cuts):
        yield _table(plan)
        yield ""
    for units, _, _ in plan.others():
        yield _block_table([cut for cut in plan.blocks if cut.units == units and cut.removed])
        yield ""


def _changes(plan: PrunePlan) -> Iterator[RenderableType]:
    if plan.exit is not None:
        found = plan.exit
        conditions = ", ".join(found.conditions)
        behind = f"{many(found.sites, 'attention site')} with {many(found.heads, 'head')}"
        yield row(
            "exit",
            f"{', '.join(map(str, found.numbers))} of {found.of}, decided by {conditions}; removes {behind} behind it",
        )
    words = [many(number, _WORDS[kind]) for kind, number in plan.counts().items() if kind in _WORDS]
    if words:
        yield row("edits", ", ".join(words))
    yield from _edges(plan)
    yield from _left_out(plan)
    for note in plan.notes:
        yield row("note", note, "yellow")


def _left_out(plan: PrunePlan) -> Iterator[RenderableType]:
    """Yield what "*" did not reach."""
    if plan.left_out:
        number = many(len(plan.left_out), "attention product")
        yield row("left out", f'"*" means all sites; {number} outside them are unchanged', "yellow")
        for missed in plan.left_out:
            yield bullet(f"{missed.node}: {missed.reason}", "yellow")


def _table(plan: PrunePlan) -> RenderableType:
    made = table("#", "site", "removed", "left", numeric=("left",), wraps=("removed",))
    for cut in plan.cuts:
        if cut.removed:
            before = f" (before: {spelled(cut.removed_before)})" if cut.removed_before else ""
            made.add_row(
                cut.called, cut.name, spelled(cut.removed) + before, f"{cut.heads_left} of {cut.num_heads}"
            )
    return made


def _block_table(cuts: Sequence[BlockCut]) -> RenderableType:
    title = cuts[0].kind[1]
    made = table("#", title, "removed", "left", numeric=("removed", "left"))
    for cut in cuts:
        before = f" (before: {count(len(cut.removed_before))})" if cut.removed_before else ""
        left = f"{count(cut.left)} of {count(cut.num_units)}"
        made.add_row(cut.key, cut.name, f"{count(len(cut.removed))}{before}", left)
    return made


def _edges(plan: PrunePlan) -> Iterator[RenderableType]:
    """Gathers that stay in the graph, and changed inputs and outputs."""
    if plan.edge_gathers:
        number = many(len(plan.edge_gathers), "edge gather")
        yield row("at run time", f"{number}: these cost something whenever the model runs", "yellow")
        for gather in plan.edge_gathers:
            cost = "" if gather.elements is None else f", {count(gather.elements)} elements"
            yield bullet(f"{gather.value} -> {gather.node}: {gather.reason}{cost}", "yellow")
    if plan.io_changes:
        yield row(
            "interface", "these graph inputs and outputs change, so callers have to change, too:", "yellow"
        )
        for change in plan.io_changes:
            yield bullet(change, "yellow")


def _sizes(before: StoredSize, after: StoredSize) -> Iterator[RenderableType]:
    if before != after:
        yield row(
            "weights",
            f"{count(before.elements)} -> {count(after.elements)} elements"
            f" ({change(before.elements, after.elements)}), {size(before.bytes)} -> {size(after.bytes)}",
        )


def _warnings(warnings: Sequence[str]) -> Iterator[RenderableType]:
    for warning in warnings:
        yield row("warning", warning, "bold yellow")


def planned_output(path: Path | None) -> Iterator[RenderableType]:
    """Yield where the run that a dry run looks at would write."""
    if path is not None:
        yield row("would write", str(path))


def prune_report(result: PruneResult) -> Iterator[RenderableType]:
    """The plan, the sizes before and after, the verdict and the file."""
    if result.validation is not None:
        yield from provider_rows(result.validation.provider)
    yield _heading(result.plan)
    yield from headline_rows(result.headline)
    yield from _cuts(result.plan)
    yield from _sizes(result.before, result.after)
    yield from _warnings(result.warnings)
    yield from _vocabulary(result.plan, result.spelling)
    yield from _changes(result.plan)
    yield from _choice(result.chosen, result.plan)
    yield from fusion_rows(result.fusion)
    if result.validation is None:
        yield row("validation", "skipped (--no-validate); the model's metadata says so", "yellow")
    else:
        yield from verdict_rows(result.validation)
    if result.output is not None:
        yield row("written", result.output)


def fusion_rows(fusion: Fusion | None) -> Iterator[RenderableType]:
    """Yield how many sites run in which fused operator, and why the others do not."""
    if fusion is None:
        return
    from onnxheadprune.fusion.result import spell_reasons

    yield row("fusion", fusion.summary, "" if fusion.made else "yellow")
    if fusion.trials:
        kept = "the model unfused" if fusion.chosen == "none" else f"the {fusion.chosen} form"
        yield bullet(f"measured here, as a ratio to the unfused model; kept is {kept}:")
        for trial in fusion.trials:
            yield bullet(str(trial), "" if trial.ratios else "yellow")
    for reason in spell_reasons(fusion.sites):
        yield bullet(reason, "yellow")
