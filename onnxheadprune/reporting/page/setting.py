"""How was that measured, and how is it repeated: data, environment, versions, command lines."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from onnxheadprune.reporting.curve import curve_facts
from onnxheadprune.reporting.layout import many
from onnxheadprune.reporting.page.documents import Document, Documents
from onnxheadprune.reporting.page.latency import latency_method


@dataclass(frozen=True)
class Fact:
    """A name and what it is."""

    name: str
    value: str


@dataclass(frozen=True)
class Setting:
    """The conditions under which the figures of one result were measured."""

    title: str
    facts: tuple[Fact, ...]
    commands: tuple[Fact, ...]


def setting_of_cut(document: Document) -> Setting:
    """Return how a cut came about."""
    return Setting("The cut", (*_of_cut(document), *_of_run(document)), tuple(_commands_of_cut(document)))


def settings_of(documents: Documents) -> Iterator[Setting]:
    """Yield how every result but the cuts was measured."""
    yield from map(_of_validation, documents.validations)
    yield from map(_of_benchmark, documents.benchmarks)
    yield from map(_of_curve, documents.curves)
    yield from map(_of_combination, documents.combinations)


def _of_benchmark(document: Document) -> Setting:
    used, machine = document["settings"], document["machine"]
    facts = [Fact("models", ", ".join(facts["name"] for facts in document["models"]))]
    facts.append(Fact("ran on", f"{document['provider']['name']}: {document['provider']['reason']}"))
    facts.append(Fact("how", f"{latency_method(document)}; seed {used['seed']}"))
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
    facts = [Fact("model", document["model"]), *(Fact(*item) for item in curve_facts(document))]
    return _setting("The sweep", "the same sweep", facts, document)


def _of_combination(document: Document) -> Setting:
    how = document["quantization"]
    facts = [
        Fact("original", document["original"]),
        Fact("quantized to", how["to"]),
        Fact("drift, accuracy and metric", document["corners"][0]["measured_on"]),
    ]
    return _setting("The comparison", "the same comparison", facts, document)


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
        yield Fact("prove the file again", f"onnxheadprune validate {files}")
        yield Fact("measure its speed", f"onnxheadprune bench {files}")
