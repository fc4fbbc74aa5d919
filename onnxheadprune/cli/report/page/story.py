"""What a page tells, as values: one cut in full, or several results side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.cli.report.combination import Comparison, comparison_of
from onnxheadprune.cli.report.gates import gate_sentence
from onnxheadprune.cli.report.layout import many
from onnxheadprune.cli.report.page.curve import CurveChart, curve_chart
from onnxheadprune.cli.report.page.difference import DifferenceList, difference_list
from onnxheadprune.cli.report.page.documents import Document, Documents
from onnxheadprune.cli.report.page.glance import Quantity, blocks, quantities
from onnxheadprune.cli.report.page.heads import HeadMap, head_map
from onnxheadprune.cli.report.page.latency import Latency, latency_of
from onnxheadprune.cli.report.page.proof import Effect, Proof, effects_of, proof_of
from onnxheadprune.cli.report.page.setting import Fact, commands_of, facts_of
from onnxheadprune.edit.site_cuts import block_cuts, totals
from onnxheadprune.model.spelling import short_names


@dataclass(frozen=True)
class Cut:
    """One cut in full.

    Attributes:
        name: of the file that was written, or would be.
        summary: what was done, in a sentence.
        proof: is it safe?
        quantities: before and after.
        heads: the map.
        blocks: what is left of each site of another kind, where one lost units, by what these are called.
        effects: what became of the outputs.
        differences: of the two models.
        facts: how it was measured.
        commands: how to repeat it.
        plan: the edits as sentences.
        contract: changed inputs and outputs, a sentence each.
    """

    name: str
    summary: str
    proof: Proof
    quantities: list[Quantity]
    heads: HeadMap
    blocks: dict[str, list[Quantity]]
    effects: list[Effect]
    differences: DifferenceList
    facts: list[Fact]
    commands: list[Fact]
    plan: tuple[str, ...]
    contract: tuple[str, ...]


@dataclass(frozen=True)
class Story:
    """All of a page.

    Attributes:
        title: of the page.
        cuts: in the order in which they were given.
        names: of the cuts, short.
        latencies: of each `bench`.
        curves: of each sweep.
        validations: verdicts of `validate` on files, beside those of the cuts.
        limits: of a pipeline, each with whether it was kept.
        combinations: pruned and quantized models side by side, of each `combine`.
    """

    title: str
    cuts: tuple[Cut, ...]
    names: tuple[str, ...]
    latencies: tuple[Latency, ...]
    curves: tuple[CurveChart, ...]
    validations: tuple[tuple[str, Proof, list[Effect]], ...]
    limits: tuple[tuple[str, bool], ...] = ()
    combinations: tuple[Comparison, ...] = ()


def story_of(documents: Documents) -> Story:
    """What there is to tell.

    Args:
        documents: results of commands.
    """
    cuts = tuple(cut_of(document) for document in documents.cuts)
    validations = tuple(
        (
            f"{PurePath(item['pruned']).name} against {PurePath(item['original']).name}",
            proof_of(item),
            effects_of(item, None),
        )
        for item in documents.validations
    )
    names = short_names([cut.name for cut in cuts])
    latencies = tuple(latency_of(item) for item in documents.benchmarks)
    curves = tuple(curve_chart(item) for item in documents.curves)
    limits = tuple((gate_sentence(Gate(**item)), bool(item["passed"])) for item in documents.limits)
    combinations = tuple(comparison_of(item) for item in documents.combinations)
    title = _title(cuts, curves)
    return Story(title, cuts, names, latencies, curves, validations, limits, combinations)


def _title(cuts: tuple[Cut, ...], curves: tuple[CurveChart, ...]) -> str:
    if len(cuts) == 1:
        return PurePath(cuts[0].name).name
    if cuts:
        return f"{len(cuts)} results side by side"
    return f"What cuts of {PurePath(curves[0].model).name} cost" if curves else "Measured models"


def cut_of(document: Document) -> Cut:
    """One cut in full.

    Args:
        document: the result of `prune` or `fuse`, or the plan of a dry run.
    """
    plan = document["plan"]
    gone = sum(len(cut["removed"]) for cut in plan["cuts"])
    before = sum(cut["num_heads"] - len(cut["removed_before"]) for cut in plan["cuts"])
    model = PurePath(document["model"]).name
    what = (
        f"{gone} of {many(before, 'attention head')} of {model} removed"
        if gone
        else f"all heads of {model} stay"
    )
    for units, lost, _ in totals(block_cuts(plan)):
        what += f", {many(lost, units.removesuffix('s'))} removed"
    if plan.get("exit") is not None:
        what += f", exit {', '.join(map(str, plan['exit']['numbers']))} for good"
    validation = document.get("validation")
    # Plans of earlier versions have no notes.
    remarks = (*(document.get("warnings") or ()), *plan.get("notes", ()))
    return Cut(
        document.get("output") or document.get("would_write") or document["model"],
        what if document.get("output") or validation else f"{what} (a look ahead; nothing was written)",
        proof_of(validation, remarks),
        quantities(document),
        head_map(document),
        blocks(document),
        effects_of(validation, document.get("choice")),
        difference_list(document),
        facts_of(document),
        commands_of(document),
        _edits(document),
        tuple(plan["io_changes"]),
    )


def _edits(document: Document) -> tuple[str, ...]:
    from onnxheadprune.edit.edits import edit_from_dict

    found = []
    for item in document["plan"].get("edits", ()):
        fields = {name: value for name, value in item.items() if name != "sites"}
        sites = ", ".join(item["sites"])
        found.append(f"{edit_from_dict(fields)}{f' — {sites}' if sites else ''}")
    return tuple(found)
