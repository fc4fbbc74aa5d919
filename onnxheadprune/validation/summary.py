"""Gains and costs of a cut: the sentence that is read first, the figures below it, and remarks.

Made of the documents that `--json` prints, for the terminal, notebooks, pages and the summary of a job alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.display.facts import Fact, Facts, Figure, Figures, Part
from onnxheadprune.display.spelling import count, first_few, many, moved, rounded, share
from onnxheadprune.edit.plan import counts_in, totals
from onnxheadprune.model.documents import Document
from onnxheadprune.validation.figures import Quality, qualities
from onnxheadprune.validation.headline import Headline

LONG = 32
"""Characters of the units of a site from which they are not all named on the first screen."""
MOST_GONE = 6
"""Sites that lost units and are named on the first screen; --verbose names all."""
FEW = 2
"""Changed fields of a configuration that are written out."""
UNREACHED = "no sample of the data runs it"
"""Why a site of a branch is left alone."""
HALF = 0.03
"""The largest distance from a half of a part that is called one."""


@dataclass(frozen=True)
class Result:
    """The result of a command, and the JSON documents that it is summarized from."""

    title: str  # the file, folder or job that it is about
    cuts: Sequence[Document]  # the cut of every network, those of a folder that units were chosen on
    headline: Headline  # its answers
    # of every file, with "file" in a folder; None where the proof was skipped
    validations: Sequence[Document | None] = (None,)
    file_bytes: tuple[int, int] | None = None  # all files before and after, None where nothing was written
    quantized: bool = False  # whether the proven model was quantized afterwards
    gates: Sequence[Gate] = ()  # limits that were set
    remarks: tuple[Fact, ...] = ()  # what else a reader should know
    figures: tuple[Figure, ...] = ()  # further quantities, behind those of the size
    data: str = "`data`"  # the option or key that names data to measure on

    @property
    def measured(self) -> list[Quality]:
        """The measurements of the outputs, of the model that is deployed."""
        return qualities(self.validations, self.quantized)

    @property
    def is_ahead(self) -> bool:
        """True if nothing was written and nothing was compared, as in a dry run."""
        return not any(self.validations) and not any(cut.get("output") for cut in self.cuts)

    def facts(self) -> Facts:
        """The answer, the figures, and what to know."""
        shown = (*self._sizes(), *self.figures, *self._outputs())
        parts: list[Part] = [Figures(shown)] if shown else []
        parts += self._without()
        parts += [gate.fact for gate in self.gates]
        parts += self._doubts()
        parts += [fact for cut in self.cuts for fact in remarks_of(cut)]
        parts += self.remarks
        state = self.headline.state if not self.is_ahead else ""
        return Facts(self.title, self._answer(), state, tuple(dict.fromkeys(parts)))

    def _answer(self) -> str:
        result = self.headline.result
        stopped = [cut["choice"]["recovery"]["steps"] for cut in self.cuts if is_interrupted(cut)]
        interrupted = f"interrupted after {many(sum(stopped), 'step')}" if stopped else ""
        clauses = [interrupted, self._exact(), self._size(), self._quality()]
        told = ", ".join(clause for clause in clauses if clause)
        if result.answer == "rejected":
            # That it is not exact is said with the rest.
            reason = "" if self.headline.exact.answer == "no" else result.reason
            return f"rejected: {'; '.join(filter(None, (reason, told if any(self.validations) else '')))}"
        return f"accepted: {told}" if result.answer == "accepted" and not self.is_ahead else told

    def _exact(self) -> str:
        if self.is_ahead:
            return "planned, nothing was written"
        found = self.headline.exact.answer
        words = {
            "yes": "exact before it was quantized" if self.quantized else "exact",
            "tried": "equal on all inputs that were tried",
            "no": "not exact",
            "not shown": "not shown to be exact",
        }
        return words.get(found, "not checked whether it is exact")

    @property
    def only_fuses(self) -> bool:
        """True if nothing was removed, so that outputs are those of the original."""
        return bool(self.cuts) and all(cut.get("fusion") and not _removes(cut["plan"]) for cut in self.cuts)

    def _size(self) -> str:
        if self.only_fuses:
            return ", ".join(
                f"{figure.before} fused" for cut in self.cuts for figure in _fused(cut["fusion"])
            )
        done = _sum(cut.get("operations") for cut in self.cuts)
        if done is not None:
            return _part_of(*done, "of the operations", "fewer operations", "more operations")
        if self.file_bytes is not None:
            return _part_of(*self.file_bytes, "of the size", "smaller", "larger")
        stored = self._stored()
        return "" if stored is None else _part_of(*stored, "of the weights", "smaller", "larger")

    def _quality(self) -> str:
        if self.is_ahead or self.only_fuses or (not self.cuts and not self.measured):
            return ""
        known = [clause for item in self.measured for clause in item.clauses()]
        if known:
            is_limited = any(not gate.passed for gate in self.gates)
            doubt = "not good enough: " if self.headline.good_enough.state == "bad" and not is_limited else ""
            return doubt + "; ".join(known)
        blind = "chosen without data, " if any(map(_is_blind, self.cuts)) else ""
        return f"{blind}its effect on your task is unknown"

    def _sizes(self) -> Iterator[Figure]:
        yield from _units(self.cuts)
        done = _sum(cut.get("operations") for cut in self.cuts)
        if done is not None:
            before, after = done
            note = _shapes(next(cut["operations"] for cut in self.cuts if cut.get("operations")))
            yield _changed("operations", before, after, rounded(before), rounded(after), note)
        stored = self._stored()
        if self.file_bytes is not None:
            yield sized("file" if len(self.validations) < 2 else "files", *self.file_bytes)
        elif stored is not None:
            yield sized("weights", *stored)
        for cut in self.cuts:
            yield from _fused(cut.get("fusion"))
            yield from _speed((cut.get("choice") or {}).get("speed"))

    def _stored(self) -> tuple[int, int] | None:
        if not all(cut.get("before") and cut.get("after") for cut in self.cuts) or not self.cuts:
            return None
        before, after = (sum(cut[when]["bytes"] for cut in self.cuts) for when in ("before", "after"))
        return None if before == after else (before, after)

    def _outputs(self) -> Iterator[Figure]:
        """Accuracy, metric and drift: what was measured, or what to give for it."""
        if self.is_ahead:
            return
        if not any(item.accuracy or item.metric for item in self.measured) and not self.only_fuses:
            yield Figure("accuracy", note=f"not measured: give labels in {self.data}")
        for item in self.measured:
            yield from item.figures
        if not self.measured:
            yield Figure("drift", note="not measured")

    def _without(self) -> Iterator[Fact]:
        """The units that are gone, where no cut has figures of them."""
        for validation in () if self.cuts else filter(None, self.validations):
            gone = [_shortened(spec) for spec in validation.get("without") or ()]
            if len(gone) > MOST_GONE + 1:
                gone = [*gone[:MOST_GONE], f"and {len(gone) - MOST_GONE} more"]
            if gone:
                yield Fact("without", ", ".join(gone))

    def _doubts(self) -> Iterator[Fact]:
        """The reason of a verdict that is not the best one."""
        exact = self.headline.exact
        if exact.answer in ("tried", "not shown", "no"):
            yield Fact("validation", exact.sentence, exact.state)
        elif exact.answer == "not checked" and not self.is_ahead:
            yield Fact("validation", exact.reason, exact.state)
        for validation in filter(None, self.validations):
            yield from _unproven(validation)
            yield from (Fact("note", note, "doubtful") for note in validation["notes"])


def is_interrupted(result: Document) -> bool:
    """Return whether the training of a cut was stopped by its user."""
    recovery = (result.get("choice") or {}).get("recovery") or {}
    return bool(recovery.get("stopped") == "interrupted")


def _shortened(spec: str) -> str:
    """The units of a site, of hundreds the first ones."""
    return spec if len(spec) <= LONG else f"{spec[:LONG].rpartition(',')[0]}, ..."


def _unproven(validation: Document) -> Iterator[Fact]:
    """Tensors with new numbers of which no data of the user shows what they do."""
    refit = validation.get("refit")
    if validation.get("refitted") and (refit is None or refit["source"] != "data"):
        count = len(validation["refitted"])
        taken, do = ("is taken", "it does") if count == 1 else ("are taken", "they do")
        text = f"{many(count, 'tensor')} {taken} from the file: give `data` to show what {do} to outputs"
        yield Fact("note", text, "doubtful")


def _removes(plan: Document) -> bool:
    """Return whether a plan removes anything."""
    others = (plan.get(name) for name in ("layers", "exit", "vocabulary"))
    return any(site["removed"] for site in plan["cuts"]) or bool(totals(counts_in(plan))) or any(others)


def _is_blind(cut: Document) -> bool:
    """Return whether units were chosen by their weights alone."""
    if not (choice := cut.get("choice")):
        return False
    from onnxheadprune.choosing.space import WITHOUT_DATA

    return bool(choice["selection"]["basis"] == WITHOUT_DATA)


def _sum(found: Iterable[Mapping[str, Any] | None]) -> tuple[int, int] | None:
    """Before and after over all networks, None where one of them is not known."""
    every = list(found)
    if not every or not all(every):
        return None
    before, after = (sum(item[when] for item in every if item) for when in ("before", "after"))
    return before, after


def _part_of(before: float, after: float, of: str, fewer: str, more: str) -> str:
    if before == after or not before:
        return ""
    if abs(after / before - 0.5) < HALF:
        return f"half {of}"
    return f"{moved(before, after).lstrip('+-')} {fewer if after < before else more}"


def _units(cuts: Sequence[Document]) -> Iterator[Figure]:
    """Units of every kind before and after."""
    sites = [site for cut in cuts for site in cut["plan"]["cuts"]]
    before = sum(site["num_heads"] - len(site["removed_before"]) for site in sites)
    gone = sum(len(site["removed"]) for site in sites)
    if gone:
        yield _counted("heads", before, before - gone)
    for units, lost, left in totals(one for cut in cuts for one in counts_in(cut["plan"])):
        yield _counted(units, lost + left, left)
    for plan in [cut["plan"] for cut in cuts]:
        if plan.get("exit") is not None:
            numbers = ", ".join(map(str, plan["exit"]["numbers"]))
            yield Figure("exit", f"{numbers} of {plan['exit']['of']}", note="permanent, without the others")
    tokens = next((found for cut in cuts if (found := cut["plan"].get("vocabulary"))), None)
    if tokens is not None:
        yield _counted("tokens", tokens["rows"], tokens["kept"])
    spelling = next((found for cut in cuts if (found := cut.get("spelling"))), None)
    if spelling is not None:
        whole = f"{count(spelling['whole'])} of {many(spelling['samples'], 'sample')} are spelled as before"
        yield Figure(
            "spelling", share(spelling["unchanged_share"]), note=f"of the data's tokens kept; {whole}"
        )


def _counted(name: str, before: int, after: int) -> Figure:
    return _changed(name, before, after, count(before), count(after))


def _changed(name: str, before: float, after: float, was: str, now: str, note: str = "") -> Figure:
    return Figure(name, was, now, moved(before, after), note)


def sized(name: str, before: int, after: int) -> Figure:
    """Bytes before and after."""
    return _changed(name, before, after, rounded(before, "B"), rounded(after, "B"))


def _shapes(operations: Document) -> str:
    """Sizes of the inputs that operations are counted at: "at 2 x 1 x 8 x 8"."""
    shapes = list(dict.fromkeys(" x ".join(map(str, dims)) for dims in operations["shapes"].values() if dims))
    more = ", ..." if len(shapes) > 2 else ""
    part = "" if operations["complete"] else ("; " if shapes else "") + "some could not be counted"
    return (f"at {', '.join(shapes[:2])}{more}" if shapes else "") + part


def _fused(fusion: Document | None) -> Iterator[Figure]:
    if fusion is not None:
        kinds = ", ".join(f"{number} {name}" for name, number in fusion["operators"].items())
        if fusion["opset"] != fusion["opset_before"]:
            kinds += f"{', ' if kinds else ''}opset {fusion['opset_before']} -> {fusion['opset']}"
        yield Figure("fused", f"{fusion['fused']} of {many(len(fusion['sites']), 'site')}", note=kinds)


def _speed(speed: Document | None) -> Iterator[Figure]:
    if speed is not None:
        yield Figure("speed", f"{speed['value']:.2f}x", note=f"the least measured, on {speed['provider']}")


def size_words(figure: Figure) -> str:
    """The difference of two sizes: "71 % smaller"."""
    change = figure.change
    return (
        f"{change.lstrip('+-')} {'smaller' if change[:1] == '-' else 'larger'}"
        if change[:1] in "+-"
        else change
    )


def remarks_of(cut: Document) -> Iterator[Fact]:
    """Remarks on one cut, in a line each; `--verbose` and the page have them in full."""
    plan, choice = cut["plan"], cut.get("choice") or {}
    for warning in cut.get("warnings") or ():
        yield Fact("warning", warning, "doubtful")
    yield from _not_done(choice)
    if gathers := plan.get("edge_gathers"):
        number = many(len(gathers), "edge gather")
        yield Fact("run time", f"{number}: added Gather nodes, which take time in every run", "doubtful")
    if changes := plan.get("io_changes"):
        more = f"; and {len(changes) - 1} more" if len(changes) > 1 else ""
        yield Fact(
            "interface", f"inputs and outputs change, and so must callers: {changes[0]}{more}", "doubtful"
        )
    if left_out := plan.get("left_out"):
        number = many(len(left_out), "attention product")
        yield Fact("left out", f'"*" means all sites; {number} outside them are unchanged', "doubtful")
    for note in plan.get("notes") or ():
        yield Fact("note", note, "doubtful")
    fusion = cut.get("fusion")
    reasons = (
        dict.fromkeys(site["reason"] for site in fusion["sites"] if site.get("reason")) if fusion else ()
    )
    for reason in list(reasons)[:1]:
        more = f"; and {many(len(reasons) - 1, 'other reason')}" if len(reasons) > 1 else ""
        yield Fact("not fused", f"{reason}{more}", "doubtful")


def _not_done(choice: Mapping[str, Any]) -> Iterator[Fact]:
    """Requests that left weights or sites unchanged."""
    refits = (choice.get("compensation") or {}).get("refits") or ()
    if refits and all(item["skipped"] is not None for item in refits):
        number = many(len(refits), "linear layer")
        yield Fact("warning", f"nothing was refitted, of {number}: {refits[0]['skipped']}", "doubtful")
    if choice.get("refit_given_up") is not None:
        drifts = f"{choice['refit_given_up']:.3g}, without one it is {choice['drift']:.3g}"
        text = f"nothing was refitted: with the existing quantization scales the drift would be {drifts}"
        yield Fact("warning", text, "doubtful")
    recovery = choice.get("recovery")
    if recovery is not None and recovery["rejected"] is not None:
        yield Fact("warning", f"nothing was recovered: {recovery['rejected']}", "doubtful")
    left = {**(choice.get("selection") or {}).get("left_out", {})}
    left |= dict.fromkeys(choice.get("unreached") or (), UNREACHED)
    if left:
        yield Fact("left alone", f"{first_few(left, 1)}: {next(iter(left.values()))}", "doubtful")


def result_of(document: Document, headline: Headline, title: str = "") -> Result:
    """The result of `prune` or `recover` of a model or a folder, or a plan of it, as its document says it.

    Args:
        title: what it is about, in place of the file or folder that was written.
    """
    each = files_of(document)
    sizes = [item.get("file_bytes") for item in each]
    name = document.get("folder") or document["model"]
    return Result(
        title or document.get("output") or document.get("would_write") or PurePath(name).name,
        [item for item in each if item.get("leads", True)],
        headline,
        [_validation(item, len(each) > 1) for item in each],
        _sum(sizes),
        gates=[Gate(**gate) for item in each for gate in item.get("gates") or ()],
        remarks=(*_kept(document), *_of_folder(document)),
    )


def files_of(document: Document) -> list[dict[str, Any]]:
    """The result of each file of a folder, or of a single model."""
    return document.get("files", [document])  # type: ignore[no-any-return]


def _validation(item: Document, is_one_of_several: bool) -> Document | None:
    validation = item.get("validation")
    named = {"file": item.get("file")} if is_one_of_several else {}
    return None if validation is None else {**validation, **named}


def _kept(document: Document) -> Iterator[Fact]:
    """Yield the path of the replaced model, and of the original if that is another file."""
    backup = document.get("backup")
    if backup is not None and backup["path"] == backup["original"]:
        yield Fact("backup", f"{backup['path']} is the original")
    elif backup is not None:
        text = f"{backup['path']} was pruned before; {backup['original']} is the original"
        yield Fact("backup", text)


def _of_folder(document: Document) -> Iterator[Fact]:
    """Consequences for a folder's other files and for its users."""
    if "files" not in document:
        return
    for warning in document.get("warnings") or ():
        yield Fact("warning", warning, "doubtful")
    if changes := document.get("config_changes"):
        listed = [
            f"{item['file']}: {item['field'].strip('/').replace('/', '.')} {item['before']} -> {item['after']}"
            for item in changes
        ]
        more = f"; and {many(len(listed) - FEW, 'more field')}" if len(listed) > FEW else ""
        yield Fact("config", f"{'; '.join(listed[:FEW])}{more}")
    elif document.get("runtime"):
        yield Fact("config", f"no update needed for {document['runtime']}")
    if document.get("rewritten"):
        yield Fact("tokenizer", f"rewritten: {', '.join(document['rewritten'])}")
