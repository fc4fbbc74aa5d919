"""The report of `prune`, `recover` and `fuse`: the answer on one screen, and the details."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType

from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.edit.site_cuts import BlockCut
from onnxheadprune.model.spelling import change, count, many, size, spelled
from onnxheadprune.model.storage.tensors import StoredSize
from onnxheadprune.reporting.console import NEXT, Row, bullet, is_asked, next_call, row, rows_of, table
from onnxheadprune.reporting.validation import provider_rows

if TYPE_CHECKING:
    from onnxheadprune.data.respelled import Spelling
    from onnxheadprune.fusion.result import Fusion
    from onnxheadprune.model.facts import Facts
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


def answer_report(
    facts: Facts,
    then: str = "",
    report: Path | None = None,
    details: Iterable[RenderableType] = (),
) -> Iterator[RenderableType]:
    """The answer on one screen: the sentence, the figures, what to know, and what to do next.

    Args:
        then: the command to type next, empty for none.
        report: a page that has the rest; None if none was asked for.
    """
    yield from rows_of(facts)
    if is_asked("verbose"):
        yield from details
    yield ""
    if then:
        yield next_call(then)
    if not is_asked("verbose"):
        page = "; --report page.html" if report is None else ""
        yield Row("more", f"--verbose shows each site, the plan and the proof{page}", indent=NEXT)


def plan_details(
    plan: PrunePlan,
    chosen: Chosen | None = None,
    sizes: tuple[StoredSize, StoredSize] | None = None,
    spelling: Spelling | None = None,
) -> Iterator[RenderableType]:
    """The sites that lose units, and what the plan changes; `sizes` are those before and after it."""
    yield from _cuts(plan)
    if sizes is not None:
        yield from _sizes(*sizes)
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
        yield row("run time", f"{number}: added Gather nodes, which take time in every run", "yellow")
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


def prune_report(result: PruneResult, report: Path | None = None) -> Iterator[RenderableType]:
    """The answer; with --verbose also the plan, the choice and the proof."""
    if result.validation is not None:
        yield from provider_rows(result.validation.provider)
    sizes = result.before, result.after
    facts = replace(result.facts(), details=() if result.validation is None else result.validation.details)
    details = (*plan_details(result.plan, result.chosen, sizes, result.spelling), *fusion_rows(result.fusion))
    yield from answer_report(facts, _next(result), report, details)


def _next(result: PruneResult) -> str:
    """The command that measures the written model, or proves it where that was left out."""
    if result.output is None:
        return ""
    command = "validate" if result.validation is None else "bench"
    return f"onnxheadprune {command} {shlex.join((result.plan.model, result.output))}"


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
