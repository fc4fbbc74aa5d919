"""One cut of a folder: units are removed from the leader of each network, and the same ones from every file of it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from onnxheadprune.choosing.space import CARRIED_OVER, Selection
from onnxheadprune.data.calibration import Calibration, calibration_data
from onnxheadprune.data.sources import read_data, with_own_tokenizer
from onnxheadprune.deploying.clients.contract import ConfigChange
from onnxheadprune.deploying.folders.agreement import carried, check_caches, check_joins
from onnxheadprune.deploying.folders.export import Export, ModelFile, or_exclude
from onnxheadprune.deploying.folders.matching import Heads, Match, Network, heads_in, spec_of
from onnxheadprune.deploying.folders.result import FileResult
from onnxheadprune.errors import RefusedError, UsageError, ValidationFailedError
from onnxheadprune.runtime.feeds.data import DataSource
from onnxheadprune.runtime.progress import Progress, prefixed
from onnxheadprune.settings.calls import PruneCall
from onnxheadprune.settings.cutting import units_of
from onnxheadprune.settings.units import DEFAULT_UNITS, KINDS, UnitKind
from onnxheadprune.workflow.choice.chosen import Chosen
from onnxheadprune.workflow.pipeline import claimed, cut_as_requested
from onnxheadprune.workflow.requests import Request, Tokens

Data: TypeAlias = "DataSource | Calibration | None"


def data_for(export: Export, file: ModelFile, request: Request) -> Data:
    """The user's data for one model of a folder, whose own tokenizer is taken for text; None without data."""
    return read_data(file.loaded, with_own_tokenizer(export.root, request.call), in_folder=True)


@dataclass(frozen=True)
class FolderTokens:
    """The reduction of the vocabulary of a folder."""

    # what each model with a vocabulary is asked for, by its name
    files: Mapping[str, Tokens] = field(default_factory=dict)
    changes: tuple[ConfigChange, ...] = ()  # fields of configuration files that follow
    # the other files that follow, by their names: of tokenizers
    contents: Mapping[str, bytes] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()  # files that hold the tokenizer in another form


@dataclass(frozen=True, eq=False)
class FolderCut:
    """All that the cuts of the files of one folder share."""

    export: Export
    match: Match  # which of its sites belong together
    request: Request
    place: Callable[[str], Path] | None  # where a model is written by its name, None to look ahead
    names: Mapping[str, str]  # of data files, by the model's name
    tokens: Mapping[str, Tokens]  # those that are kept, by the name of each model with a vocabulary
    progress: Progress
    even_caches: bool = False  # whether the runtime needs the same number of KV heads in all layers
    warnings: list[str] = field(default_factory=list)  # what the user should know
    begun: list[str] = field(default_factory=list)  # names of the models that are cut so far

    def cut(self, heads: Heads | None) -> tuple[list[FileResult], Heads]:
        """Cut every file that loses something.

        Args:
            heads: what is removed, by the numbers of the export; None for a target, which is decided on the leaders.

        Returns:
            What became of each file that was cut, and the heads by the numbers of the export.
        """
        data, unfit = self._data_of_leaders()
        if heads is None:
            self.warnings.extend(self._without_data(name, why) for name, why in unfit.items())
        results: list[FileResult] = []
        gone: Heads = {}
        networks = [
            network
            for network in self._cuttable(heads, unfit)
            if heads is None or any(heads_in(file, heads, self.match) for file in network.files)
        ]
        for done, network in enumerate(networks):
            found, removed = self._network(
                network, heads, data.get(network.leader.name), len(networks) - done
            )
            results += found
            gone |= removed
        # An encoder may output what a decoder takes as a cache.
        check_caches(self.export.models, results)
        renamed = {item.name: {io.name: io.after for io in item.result.plan.renamed} for item in results}
        check_joins(self.export.models, renamed)
        others = set(self.tokens)
        if heads is not None and not heads and self.request.call.fuse != "none":
            others |= {file.name for network in self.match.networks for file in network.files}
        for name in sorted(others - {item.name for item in results}):
            file = self.export.model(name)
            results.append(self._file(file, self._decided(), self._data_if_it_fits(file)))
        return results, gone

    def _data_of_leaders(self) -> tuple[dict[str, Data], dict[str, str]]:
        """The data for the leader of each network that it fits, and why it does not fit the others."""
        found: dict[str, Data] = {}
        unfit: dict[str, str] = {}
        for leader in (network.leader for network in self.match.networks):
            try:
                found[leader.name] = self._data_of(leader)
            except UsageError as error:
                if len(self.match.networks) == 1:
                    raise
                unfit[leader.name] = str(error)
        if not found:
            told = "; ".join(f"{name}: {reason}" for name, reason in unfit.items())
            raise UsageError(f"the data fits none of the models: {told}")
        return found, unfit

    def _data_of(self, file: ModelFile) -> Data:
        data = data_for(self.export, file, self.request)
        if data is not None:
            calibration_data(data, file.view)
        return data

    def _data_if_it_fits(self, file: ModelFile) -> Data:
        """The data for a file that needs none: a proof goes on made-up inputs, too."""
        try:
            return self._data_of(file)
        except UsageError:
            return None

    def _cuttable(self, heads: Heads | None, unfit: Container[str]) -> Iterator[Network]:
        """The networks that may lose units. Others have no such sites, or costs that nobody knows."""
        call, found = self.request.call, 0
        for number, network in enumerate(self.match.networks):
            held = {item.site.KIND for item in self.match.sites if item.network == number}
            if call.has_target and (
                held.isdisjoint(chosen_kinds(call)) or (network.leader.name in unfit and _is_measured(call))
            ):
                continue
            found += 1
            yield network
        if not found and heads is None:
            raise RefusedError("no network of the folder has a site that may lose units; name other `units`")

    def _without_data(self, name: str, why: str) -> str:
        """The note on a network that the data does not fit."""
        if self.request.call.has_target and _is_measured(self.request.call):
            return (
                f"{name} is left unchanged: its units are scored on data, and the data does not fit it: {why}"
            )
        return f"the heads of {name} were chosen by its weights alone, since the data is not for it: {why}"

    def _network(
        self, network: Network, heads: Heads | None, data: Data, waiting: int
    ) -> tuple[list[FileResult], Heads]:
        """Cut all files of a network.

        Args:
            waiting: how many networks are still to be cut, this one among them: they share what is left of a time.
        """
        leader, asked = network.leader, self.request
        if asked.budget is not None:
            asked = replace(asked, budget=asked.budget.turn(waiting, len(network.files)))
        results: list[FileResult] = []
        if heads is None:
            results.append(self._file(leader, replace(asked, call=self._within(leader)), data))
            chosen, numbers = results[0].result.chosen, self.match.of(leader.name)
            assert chosen is not None
            heads = {numbers[index]: gone for index, gone in chosen.selection.heads.items() if gone}
        elif local := heads_in(leader, heads, self.match):
            results.append(self._file(leader, replace(asked, call=asked.call.naming(spec_of(local))), data))
        chosen = results[0].result.chosen if results else None
        for file in network.files[1:]:
            if local := heads_in(file, heads, self.match):
                request = self._followed(local, chosen, leader, file)
                results.append(self._file(file, request, self._data_if_it_fits(file)))
        return results, heads

    def _within(self, leader: ModelFile) -> PruneCall:
        """The call within what the runtime can express: as many KV heads in all layers with a cache, or experts."""
        call = self.request.call
        if call.runtime is None or not call.has_target:
            return call
        kept = self.request.contract.cache == "keep"
        even = self.even_caches and not kept and any(site.io for site in leader.sites)
        counted = (kind for kind in chosen_kinds(call) if kind.counted_by)
        if not even and not any(leader.sites.of(kind.units) for kind in counted):
            return call
        return replace(call, uniform=True, whole_groups=call.whole_groups or even)

    def _decided(self, units: dict[str, list[int]] | None = None) -> Request:
        """The request for a file for which nothing is to be chosen any more."""
        return replace(
            self.request,
            call=replace(self.request.call.naming(units), refit=None),
            budget=None,
        )

    def _followed(self, local: Heads, chosen: Chosen | None, leader: ModelFile, file: ModelFile) -> Request:
        """The request for another file of the network, with the units and refitted weights of its leader."""
        named = self._decided(spec_of(local))
        numbers = None if chosen is None else chosen.numbers
        if chosen is None or numbers is None:
            return named
        own = carried(numbers, chosen.steps, leader, file)
        units = " and ".join(kind.units for kind in KINDS if any(map(kind.owns, local)))
        if own is None and file.precision == leader.precision:
            raise RefusedError(
                f"the weights that are refitted in {leader.name} are not stored alike in {file.name}, so the two would"
                f" differ; choose the same {units} with `refit=False`"
            )
        if own is None:
            self.warnings.append(
                f"{file.name} loses the same {units} and is not refitted: its weights are stored in another"
                f" precision than those of {leader.name}; convert the refitted {leader.name} again instead"
            )
            return named
        return replace(named, decided=Chosen(Selection(local, f"{CARRIED_OVER} {leader.name}"), own))

    def _file(self, file: ModelFile, request: Request, data: Data) -> FileResult:
        output = None if self.place is None else self.place(file.name)
        self.begun.append(file.name)
        progress = self._progress_of(file.name)
        progress("pruning", 0, 0)
        call = replace(request.call.into(output), data_name=self.names[file.name])
        request = replace(request, call=call, data=data, tokens=self.tokens.get(file.name))
        leads = any(network.leader is file for network in self.match.networks)
        hint = or_exclude(file.name) if self.match.is_copy(file) else ""
        try:
            result = cut_as_requested(file.loaded, request, claimed(call, file.loaded), progress)
        except ValidationFailedError as error:
            raise ValidationFailedError(f"{file.name}: {error}{hint}", error.validation) from error
        except RefusedError as error:
            raise RefusedError(f"{file.name}: {error}{hint}") from error
        return FileResult(file.name, leads, result)

    def _progress_of(self, name: str) -> Progress:
        """The progress of the cut of one file, which names it and how many there are."""
        known = {file.name for network in self.match.networks for file in network.files}
        return prefixed(
            self.progress, f"file {len(self.begun)} of {len(known | self.tokens.keys())}, {name}, "
        )


def chosen_kinds(call: PruneCall) -> list[UnitKind]:
    """The kinds of units that a target removes."""
    return [kind for kind in KINDS if kind.units in units_of(call, has_data=call.data is not None)]


def _is_measured(call: PruneCall) -> bool:
    """Return whether a target can only be met with data: units of several kinds are not compared by weights."""
    return {kind.units for kind in chosen_kinds(call)} != DEFAULT_UNITS
