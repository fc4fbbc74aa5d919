"""All that `inspect` reports on a folder of models that belong together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.find import Analysis
from onnxheadprune.deploying.folders.export import Export
from onnxheadprune.deploying.folders.matching import Match, looked_at
from onnxheadprune.deploying.folders.result import sites_to_dict
from onnxheadprune.display.displayed import Displayed
from onnxheadprune.display.facts import Fact, Facts, Part
from onnxheadprune.display.spelling import first_few, spelled
from onnxheadprune.model.analysis_errors import NotAnalysed, try_analysis
from onnxheadprune.workflow.inspection import (
    LAYERS,
    Inspection,
    LayerSummary,
    exit_facts,
    layer_facts,
    removable_facts,
    vocabulary_facts,
)


@dataclass(frozen=True)
class FolderInspection(Displayed):
    """The structure of the models of a folder."""

    folder: str
    export: Export
    match: Match  # which sites belong together
    found: Mapping[str, Inspection]  # of each file, by its name
    layers: tuple[LayerSummary, ...]  # of all files
    disagreement: str | None  # where its files disagree in other kinds than heads, None where they do not

    @classmethod
    def of(cls, folder: Path, *, follow_links: bool = False) -> FolderInspection:
        """Inspect a folder.

        Raises:
            HeadPruneError: if its files cannot be read, or do not belong together.
        """
        export, match, why = looked_at(folder, follow_links=follow_links)
        analyses = {
            file.name: Analysis(file.loaded.proto, file.loaded.name, file.view, file.sites)
            for file in export.models
        }
        found = {file.name: Inspection.of(file.loaded, analyses[file.name]) for file in export.models}
        leaders = [analyses[network.leader.name] for network in match.networks]
        listed = try_analysis(LAYERS, partial(LayerSummary.among, match.as_sites(str(folder)), leaders))
        # Of the file whose layers cannot be analysed the same is said.
        layers = () if isinstance(listed, NotAnalysed) else listed
        return cls(str(folder), export, match, found, layers, why)

    @property
    def sites(self) -> Sites:
        """The sites as if they were those of one model."""
        elements = sum(self.found[network.leader.name].sites.elements or 0 for network in self.match.networks)
        return replace(self.match.as_sites(self.folder), elements=elements)

    def facts(self) -> Facts:
        """The sites, the files that hold them, layers, early exits, the vocabulary, and troubles."""
        told = self.sites.facts()
        return replace(told, parts=(*told.parts, *self._further(), *removable_facts(self.sites)))

    def _further(self) -> Iterator[Part]:
        leaders = [self.found[network.leader.name] for network in self.match.networks]
        for number, leader in enumerate(network.leader for network in self.match.networks):
            yield from self._where(number)
            yield Fact("", f"units are chosen on {leader.name}")
        if self.disagreement is not None:
            yield Fact("heads alone", f"can be removed from all files: {self.disagreement}", "doubtful")
        yield from self._missed()
        yield from layer_facts(self.layers)
        for item in leaders:
            yield from exit_facts(item.exits)
        yield from next((vocabulary_facts(item) for item in self.found.values() if item.vocabularies), ())
        for name, item in self.found.items():
            yield from item.troubles(name)

    def _missed(self) -> Iterator[Fact]:
        """Yield what looks like a site and is none; files with the same notes share one."""
        said: dict[tuple[Fact, ...], list[str]] = {}
        for name, item in self.found.items():
            said.setdefault(item.sites.missed(), []).append(name)
        for names in said.values():
            yield from self.found[names[0]].sites.missed(f" (in {first_few(names, 3)})")

    def _where(self, number: int) -> Iterator[Fact]:
        """Yield the files of a network by their sites: sites that the same files hold are in one line."""
        network = self.match.networks[number]
        for kind in self.match.kinds:
            held: dict[tuple[str, str], list[int]] = {}
            for item in self.match.of_kind(kind):
                if item.network == number:
                    files = ", ".join(file.name for file in network.files if file.name in item.places)
                    front = item.site.key.rstrip("0123456789")
                    held.setdefault((files, front), []).append(int(item.site.key.removeprefix(front)))
            for (files, front), numbers in held.items():
                yield Fact(f"{kind.block}s", f"{front}{spelled(numbers)} are in {files}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "folder": self.folder,
            "networks": [
                {"leader": network.leader.name, "files": [file.name for file in network.files]}
                for network in self.match.networks
            ],
            **sites_to_dict(self.match),
            "layers": [layer.to_dict() for layer in self.layers],
            "files": [
                {"file": file.name, "part": file.part, **self.found[file.name].to_dict()}
                for file in self.export.models
            ],
            "disagreement": self.disagreement,
        }
