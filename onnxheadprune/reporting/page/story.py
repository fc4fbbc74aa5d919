"""The contents of a page as values: a cut in full or several results side by side, with their measurements."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePath

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.benchmarking.summary import method_of
from onnxheadprune.edit.site_cuts import counts_in, totals
from onnxheadprune.model.documents import Document
from onnxheadprune.model.facts import Fact, Facts, Figure, Figures
from onnxheadprune.model.spelling import count, first_few, many, short_names
from onnxheadprune.reporting.page.charts import CurveChart, Latency, curve_chart, latency_of
from onnxheadprune.reporting.page.documents import Documents, Shipped
from onnxheadprune.reporting.page.proof import Effect, Proof, effects_of, proof_of
from onnxheadprune.reporting.page.removed import (
    HeadMap,
    Quantity,
    blocks,
    head_map,
)
from onnxheadprune.validation.headline import Answer, headline_of
from onnxheadprune.validation.summary import Result, files_of, result_of
from onnxheadprune.workflow.curve import column_words


@dataclass(frozen=True)
class Cut:
    """One cut in full."""

    name: str
    summary: str
    facts: Facts
    answers: tuple[tuple[str, Answer], ...]
    proof: Proof
    heads: HeadMap
    blocks: dict[str, list[Quantity]]
    effects: list[Effect]
    setting: Setting
    plan: tuple[str, ...]
    contract: tuple[str, ...]

    @property
    def figures(self) -> dict[str, Figure]:
        """Quantities by name, of those that were measured."""
        parts = (part for part in self.facts.parts if isinstance(part, Figures))
        return {figure.name: figure for part in parts for figure in part.rows if figure.before}


@dataclass(frozen=True)
class Story:
    """All of a page."""

    title: str
    facts: Facts | None
    cuts: tuple[Cut, ...]
    names: tuple[str, ...]
    latencies: tuple[Latency, ...]
    curves: tuple[CurveChart, ...]
    validations: tuple[tuple[str, Proof, list[Effect]], ...]
    settings: tuple[Setting, ...] = ()

    @property
    def has_limits(self) -> bool:
        """True if any cut was accepted or rejected."""
        return any(answer.answer != "no limits given" for cut in self.cuts for _, answer in cut.answers[:1])

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the quantities of all cuts."""
        return tuple(dict.fromkeys(name for cut in self.cuts for name in cut.figures))


def story_of(documents: Documents) -> Story:
    """Return what there is to tell."""
    cuts = tuple(_cut_of(document, documents) for document in documents.cuts)
    validations = tuple(
        (
            f"{_judged(item, documents.shipped)} against {PurePath(item['original']).name}",
            proof_of(item, quantized="deployed" in item),
            effects_of(item, None),
        )
        for item in documents.validations
    )
    names = short_names([cut.name for cut in cuts])
    latencies = tuple(latency_of(item) for item in documents.benchmarks)
    curves = tuple(curve_chart(item) for item in documents.curves)
    settings = (*(cut.setting for cut in cuts if len(cuts) == 1), *_settings_of(documents))
    return Story(
        _title(documents, cuts),
        _facts(documents, cuts),
        cuts,
        names,
        latencies,
        curves,
        validations,
        settings,
    )


def _facts(documents: Documents, cuts: tuple[Cut, ...]) -> Facts | None:
    """The facts of all results; those of a job are made where its limits are known."""
    if documents.facts is not None:
        return documents.facts
    limits = [Gate(**item) for item in documents.limits]
    validations = documents.validations
    if len(documents.folders) == 1 and not validations:
        (folder,) = documents.folders
        each = [_validation(item) for item in files_of(folder)]
        return result_of(folder, headline_of(each, limits)).facts()
    if len(cuts) == 1:
        (document,) = documents.cuts
        found = [_validation(document)]
        # A cut that was written with --no-validate, and validated afterwards.
        found = [*([] if validations and found == [None] else found), *validations]
        told = replace(result_of(document, headline_of(found, limits)), validations=found, gates=limits)
        return told.facts()
    if cuts or not validations:
        # Alternatives, of which each has its own.
        return None
    name = PurePath(validations[-1]["pruned"]).name
    return Result(name, (), headline_of(validations, limits), validations, gates=limits).facts()


def _validation(document: Document) -> Document | None:
    validation = document.get("validation")
    return None if validation is None else {**validation, "file": document.get("file")}


def _judged(validation: Document, shipped: Shipped | None) -> str:
    if shipped is not None and "deployed" in validation:
        return f"{shipped.name}, quantized from {PurePath(validation['pruned']).name},"
    return PurePath(validation["pruned"]).name


def _title(documents: Documents, cuts: tuple[Cut, ...]) -> str:
    if documents.shipped is not None:
        return documents.shipped.name
    if documents.folders:
        names = (PurePath(item.get("output") or item["folder"]).name for item in documents.folders)
        return " and ".join(names)
    if len(cuts) == 1:
        return PurePath(cuts[0].name).name
    if cuts:
        return f"{len(cuts)} results: {_listed([cut.name for cut in cuts])}"
    if documents.curves:
        return f"What cuts of {PurePath(documents.curves[0]['model']).name} cost"
    models = [facts["name"] for item in documents.benchmarks for facts in item["models"]]
    return _listed(models or [item["pruned"] for item in documents.validations])


def _listed(names: list[str]) -> str:
    """Names of files, the first few."""
    return first_few(short_names(list(dict.fromkeys(names))), 3)


def _cut_of(document: Document, documents: Documents) -> Cut:
    shipped = documents.shipped
    plan = document["plan"]
    gone = sum(len(cut["removed"]) for cut in plan["cuts"])
    before = sum(cut["num_heads"] - len(cut["removed_before"]) for cut in plan["cuts"])
    model = PurePath(document["model"]).name
    parts = [f"{gone} of {many(before, 'attention head')}"] if gone else []
    for units, lost, left in totals(counts_in(plan)):
        parts.append(f"{count(lost)} of {many(lost + left, units.removesuffix('s'))}")
    if (tokens := plan.get("vocabulary")) is not None:
        parts.append(f"{count(tokens['rows'] - tokens['kept'])} of {many(tokens['rows'], 'token')}")
    what = f"{' and '.join(parts)} of {model} removed" if parts else f"{model} keeps all heads"
    if plan.get("exit") is not None:
        what += f", exit {', '.join(map(str, plan['exit']['numbers']))} permanent"
    validation, choice = document.get("validation"), document.get("choice")
    headline = headline_of([_validation(document)], [Gate(**item) for item in document.get("gates") or ()])
    # Plans of earlier versions have no notes.
    remarks = (*(document.get("warnings") or ()), *plan.get("notes", ()))
    return Cut(
        document.get("output") or document.get("would_write") or document["model"],
        what if document.get("output") or validation else f"{what} (a look ahead; nothing was written)",
        result_of(document, headline).facts(),
        headline.answers,
        proof_of(validation, remarks, quantized=shipped is not None and shipped.quantized),
        head_map(document),
        blocks(document),
        # What comes out of a job is judged by its last validation, on data of its own.
        effects_of(documents.validations[-1] if shipped and documents.validations else validation, choice),
        Setting("The cut", (*_of_cut(document), *_of_run(document)), tuple(_commands_of_cut(document))),
        _edits(document),
        tuple(plan["io_changes"]),
    )


def _edits(document: Document) -> tuple[str, ...]:
    edits = document["plan"].get("edits", ())
    return tuple(" — ".join(filter(None, (item["text"], ", ".join(item["sites"])))) for item in edits)


@dataclass(frozen=True)
class Setting:
    """The conditions under which the figures of one result were measured."""

    title: str
    facts: tuple[Fact, ...]
    commands: tuple[Fact, ...]


def _settings_of(documents: Documents) -> Iterator[Setting]:
    """Yield how every result but the cuts was measured."""
    yield from map(_of_validation, documents.validations)
    yield from map(_of_benchmark, documents.benchmarks)
    yield from map(_of_curve, documents.curves)


def _of_benchmark(document: Document) -> Setting:
    used, machine = document["settings"], document["machine"]
    facts = [Fact("models", ", ".join(facts["name"] for facts in document["models"]))]
    facts.append(Fact("ran on", f"{document['provider']['name']}: {document['provider']['reason']}"))
    facts.append(Fact("how", f"{method_of(document)}; seed {used['seed']}"))
    load = machine.get("load_average")
    if load is not None:
        facts.append(Fact("load of the machine", f"{load:.2f} on {many(machine['cores'], 'core')}"))
    return _setting("The latency", "the same measurement", facts, document)


def _of_validation(document: Document) -> Setting:
    facts = [Fact("original", document["original"]), Fact("pruned", document["pruned"])]
    facts.append(Fact("ran on", f"{document['provider']['name']}: {document['provider']['reason']}"))
    facts.append(Fact("random inputs", f"seed {document['seed']}"))
    return _setting("The validation", "the same validation", facts, document)


def _of_curve(document: Document) -> Setting:
    facts = [Fact("model", document["model"]), *(Fact(*item) for item in column_words(document))]
    return _setting("The sweep", "the same sweep", facts, document)


def _setting(title: str, again: str, facts: Iterable[Fact], document: Document) -> Setting:
    return Setting(title, (*facts, *_of_run(document)), tuple(_again(again, document)))


def _of_cut(document: Document) -> Iterator[Fact]:
    yield Fact("original", document["model"])
    if document.get("output"):
        yield Fact("written to", document["output"])
    choice, validation = (document.get(name) for name in ("choice", "validation"))
    if choice:
        yield Fact("chosen by", choice["selection"]["basis"])
        refit = choice.get("compensation")
        if refit:
            done = [item for item in refit["refits"] if item["skipped"] is None]
            samples = many(refit["samples"], "sample")
            yield Fact(
                "refitted", f"{many(len(done), 'linear layer')} on {samples}, data {refit['data'][:12]}"
            )
    if validation:
        yield Fact("validated on", f"{validation['provider']['name']}: {validation['provider']['reason']}")
        yield Fact("random inputs", f"seed {validation['seed']}")
    if document["plan"].get("fingerprint"):
        yield Fact("graph of the original", document["plan"]["fingerprint"])


def _of_run(document: Document) -> Iterator[Fact]:
    run = document.get("run") or {}
    found = run.get("versions") or document.get("versions")
    found = found or (document.get("validation") or {}).get("versions") or {}
    named = [f"{name} {version}" for name, version in found.items() if name != "onnxruntime_package"]
    if named:
        yield Fact("versions", ", ".join(named))
    machine = run.get("machine") or document.get("machine")
    if machine:
        cards = "".join(f", {card['name']}" for card in machine["cards"])
        about = [f"{machine['processor']}, {machine['cores']} cores{cards}"]
        about += [machine["system"]] if machine.get("system") else []
        about += [f"Python {machine['python']}"] if machine.get("python") else []
        yield Fact("machine", ", ".join(about))
    if run:
        yield Fact("date", run["date"])


def _again(name: str, document: Document) -> Iterator[Fact]:
    run = document.get("run")
    if run:
        place = f" (in {run['folder']})" if run.get("folder") else ""
        yield Fact(f"{name}{place}", run["command"])


def _commands_of_cut(document: Document) -> Iterator[Fact]:
    """Command lines that repeat the cut, prove it again and measure it."""
    yield from _again("the same cut", document)
    output = document.get("output")
    if output:
        files = shlex.join((document["model"], output))
        yield Fact("prove the file again", f"onnxheadprune validate {files}{_data_of(document)}")
        yield Fact("measure its speed", f"onnxheadprune bench {files}")


def _data_of(document: Document) -> str:
    """The options that give the data of the call, as it was typed."""
    words = shlex.split((document.get("run") or {}).get("command", ""))
    found = []
    for option in ("--data", "--tokenizer"):
        for position, word in enumerate(words):
            if word == option and position + 1 < len(words):
                found += [option, words[position + 1]]
            elif word.startswith(f"{option}="):
                found.append(word)
    return f" {shlex.join(found)}" if found else ""
