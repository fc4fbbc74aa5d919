"""How was that measured, and how is it repeated: data, environment, versions, command lines."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from onnxheadprune.cli.report.layout import many
from onnxheadprune.cli.report.page.documents import Document


@dataclass(frozen=True)
class Fact:
    """A name and what it is."""

    name: str
    value: str


def facts_of(document: Document) -> list[Fact]:
    """How the figures of a cut came about.

    Args:
        document: the result of `prune` or `fuse`.
    """
    return list(_facts(document))


def _facts(document: Document) -> Iterator[Fact]:
    yield Fact("original", document["model"])
    if document.get("output"):
        yield Fact("written to", document["output"])
    choice, validation, run = (document.get(name) for name in ("choice", "validation", "run"))
    if choice:
        yield Fact("heads chosen by", choice["selection"]["basis"])
        refit = choice.get("compensation")
        if refit:
            done = [item for item in refit["refits"] if item["skipped"] is None]
            samples = many(refit["samples"], "sample")
            yield Fact("refitted", f"{many(len(done), 'linear map')} on {samples}, data {refit['data'][:12]}")
    if validation:
        yield Fact("validated on", f"{validation['provider']['name']}: {validation['provider']['reason']}")
        yield Fact("random inputs", f"seed {validation['seed']}")
    if document["plan"].get("fingerprint"):
        yield Fact("graph of the original", document["plan"]["fingerprint"])
    versions = (run or {}).get("versions") or (validation or {}).get("versions") or {}
    told = [f"{name} {version}" for name, version in versions.items() if name != "onnxruntime_package"]
    if told:
        yield Fact("versions", ", ".join(told))
    if run:
        machine = run["machine"]
        cards = "".join(f", {card['name']}" for card in machine["cards"])
        about = f"{machine['processor']}, {machine['cores']} cores{cards}, {machine['system']}"
        yield Fact("machine", f"{about}, Python {machine['python']}")
        yield Fact("date", run["date"])


def commands_of(document: Document) -> list[Fact]:
    """Command lines that repeat the cut, prove it again and measure it."""
    run, output = document.get("run"), document.get("output")
    found = []
    if run:
        place = f" (in {run['folder']})" if run.get("folder") else ""
        found.append(Fact(f"the same cut{place}", run["command"]))
    if output:
        files = shlex.join((document["model"], output))
        found.append(Fact("prove the file again", f"onnxheadprune validate {files}"))
        found.append(Fact("measure its speed", f"onnxheadprune bench {files}"))
    return found
