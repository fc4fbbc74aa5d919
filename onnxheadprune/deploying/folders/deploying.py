"""The configuration of a folder and its runtime: checked before and after a cut, patched in the fields that follow."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from onnx import TensorProto

from onnxheadprune.attention.io_changes import Contract
from onnxheadprune.attention.sites.all_sites import AttentionSite
from onnxheadprune.attention.specs import original_groups
from onnxheadprune.deploying.clients.contract import (
    CONFIG,
    CachedSite,
    Client,
    ConfigChange,
    Deployment,
    FileFacts,
)
from onnxheadprune.deploying.clients.genai import CONFIG as GENAI_CONFIG
from onnxheadprune.deploying.clients.layers import KV_HEADS, described
from onnxheadprune.deploying.clients.optimum import HEADS, STACKS
from onnxheadprune.deploying.folders.export import Export, ModelFile
from onnxheadprune.deploying.folders.matching import Match, SharedSite
from onnxheadprune.deploying.folders.network import Heads
from onnxheadprune.deploying.folders.types import FolderRequest
from onnxheadprune.errors import RefusedError, named_setting
from onnxheadprune.model.documents import CONFIGURATION, read_object
from onnxheadprune.model.spelling import first_few
from onnxheadprune.model.typed_json import json_text
from onnxheadprune.settings.units import HEAD, UnitKind, called

INDENT = 2
OTHER_FLOATS = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})


class Deploying:
    """A folder and its client."""

    def __init__(self, export: Export, match: Match, asked: FolderRequest) -> None:
        """Read the configuration."""
        self.export, self.match, self.asked = export, match, asked
        self.config = self._read(CONFIG)
        _check_config(self.config, match)
        self.genai = self._read(GENAI_CONFIG)
        self.warnings: tuple[str, ...] = ()

    @property
    def even_caches(self) -> bool:
        """True if the client needs the same number of KV heads in all layers."""
        return self.asked.client is not None and self.asked.client.even_caches(self._deployment({}))

    def require(self, heads: Heads | None) -> None:
        """Check whether the client loads the folder and can express a cut; None if heads are yet to be chosen."""
        client = self.asked.client
        if client is not None:
            self.warnings = client.check(self._deployment(heads or {}))
            missing = [name for name in client.reads if name not in self.export.others]
            if missing:
                names = " and ".join(missing)
                told = f"{client.title} reads {names}, and there is none: it cannot load this folder unpruned either"
                self.warnings = (*self.warnings, told)
        self.changes(heads or {})
        if client is not None:
            self._require_caches(client, heads)

    def _require_caches(self, client: Client, heads: Heads | None) -> None:
        """Check whether the caches that the client computes are those of the models, before and after a cut.

        Raises:
            RefusedError: if they are not, so that it does not run the unpruned models either.
        """
        before = self._deployment({})
        wrong = self._computed_otherwise(client, heads or {})
        if wrong is not None and heads is None:
            # A cut of caches may correct the configuration.
            even = {site.index: site.groups[0] for site in before.sites if len(site.groups) > 1}
            with contextlib.suppress(RefusedError):
                wrong = self._computed_otherwise(client, even)
        if wrong is not None:
            number, size = client.caches(before) or (0, 0)
            raise RefusedError(
                f"{client.title} cannot run this folder unpruned either: from the configuration it computes caches of"
                f" {number} heads of size {size}, and those of {wrong.name} have {wrong.before} of size"
                f" {wrong.head_size}; correct the configuration, or leave {named_setting('runtime')} out"
            )

    def _computed_otherwise(self, client: Client, heads: Heads) -> CachedSite | None:
        """The first site whose caches are not what the client computes from the configuration as a cut leaves it."""
        after = self._deployment(heads)
        if client.caches(after) is None:
            return None
        written = {name: json.loads(text) for name, text in self.patched(self.changes(heads)).items()}
        after = replace(
            after, config=written.get(CONFIG, self.config), genai=written.get(GENAI_CONFIG, self.genai)
        )
        computed = client.caches(after)
        return next(
            (site for site in after.sites if not site.leaves and computed != (site.after, site.head_size)),
            None,
        )

    def changes(self, heads: Heads) -> tuple[ConfigChange, ...]:
        """The fields of configuration files that must follow a cut."""
        deployment = self._deployment(heads)
        changes = () if self.asked.client is None else self.asked.client.changes(deployment)
        more = described(deployment) if self.asked.per_layer else ()
        every = (*more, *(change for change, _ in self._counted(heads) if change is not None))
        return (*changes, *(change for change in every if change not in changes))

    def patched(self, changes: Iterable[ConfigChange]) -> dict[str, bytes]:
        """The configuration files that change, with their new contents; every other field stays unchanged."""
        documents: dict[str, dict[str, Any]] = {}
        for change in changes:
            document = documents.setdefault(
                change.file, read_object(self.export.root / change.file, CONFIGURATION)
            )
            inner = document
            for name in change.field[:-1]:
                inner = inner.setdefault(name, {})
            inner[change.field[-1]] = change.after
        return {
            name: (json_text(document, indent=INDENT, ascii_only=False, nan=True) + "\n").encode()
            for name, document in documents.items()
        }

    def _read(self, name: str) -> dict[str, Any]:
        return read_object(self.export.root / name, CONFIGURATION) if name in self.export.others else {}

    def _counted(self, gone: Heads) -> Iterator[tuple[ConfigChange | None, str]]:
        """Yield each field with one number of units for all sites: how it follows a cut, or why it cannot."""
        for kind in {item.site.KIND for item in self.match.sites if gone.get(item.index)}:
            sites = [(item.index, item.site) for item in self.match.sites if kind.owns(item.index)]
            left = sorted({len(site.original_units) - len(gone.get(index, ())) for index, site in sites})
            before = {len(site.original_units) for _, site in sites}
            for way, part in _parts(self.config):
                for field in kind.counted_by:
                    if type(value := part.get(field)) is int and value in before:
                        change = (
                            ConfigChange(CONFIG, (*way, field), value, left[0]) if len(left) == 1 else None
                        )
                        counts = " and ".join(map(str, left))
                        yield change, f"{field} {value}, and sites keep {counts} {kind.units}"

    def unasked(self, heads: Heads) -> Iterator[str]:
        """A sentence if caches get narrower and nobody has said what must follow."""
        said = self.asked.client is not None or self.asked.per_layer
        deployment = self._deployment(heads)
        if not said and self.config and deployment.lost_caches:
            yield (
                "caches are removed, and config.json is not updated: programs that count them by its number of layers"
                f" need {named_setting('runtime')}, which updates the field"
            )
        if not said and self.config and deployment.cut_caches:
            yield (
                "caches get narrower, and config.json is not updated: programs that compute their shapes from it (as"
                f" Optimum does) need {named_setting('runtime')}, which updates the fields"
            )

    def told_widths(self, gone: Heads) -> Iterator[str]:
        """A sentence if the configuration tells how many units sites had that have fewer now.

        No client reads such a number: what runs is the graph. Weights of PyTorch in the same folder still have it.
        """
        for change, told in self._counted(gone):
            if change is None:
                yield (
                    f"config.json says {told}: the field is not updated, since it has one number for all layers,"
                    " and no runtime reads it"
                )
        lost = [item.site for item in self.match.sites if gone.get(item.index)]
        for field, value in _widths(self.config, {site.KIND for site in lost}):
            fewer = [
                site.tag for site in lost if field in site.KIND.widths and site.original_num_units == value
            ]
            if fewer:
                yield (
                    f"config.json says {field} {value}, and {first_few(fewer, 1)} keep fewer: the field is not"
                    " updated, since no runtime reads it"
                )

    def _deployment(self, heads: Heads) -> Deployment:
        contract = self.asked.request.contract
        files = tuple(_facts_of(file, self._data_files(file)) for file in self.export.models)
        sites = _cached_sites(self.match, heads, contract)
        cached = {site.index for site in sites}
        elsewhere = tuple(
            f"{called(index)}:{','.join(map(str, gone))}"
            for index, gone in sorted(heads.items())
            if gone and index not in cached and HEAD.owns(index)
        )
        return Deployment(files, self.config, sites, self.export.others, self.genai, elsewhere)

    def _data_files(self, file: ModelFile) -> int:
        policy = self.asked.request.writing.storing.external_data
        beside = bool(file.loaded.data_files) if policy == "auto" else policy == "always"
        return int(beside)


def _check_config(config: Mapping[str, Any], match: Match) -> None:
    """Check whether the configuration can be that of the models: its numbers of heads are those of some site.

    A configuration that says nothing about heads, or leaves that to parts of it, is not judged.
    """
    sites = match.as_sites(CONFIG).sites
    if any(isinstance(value, dict) and name.endswith("_config") for name, value in config.items()):
        return
    _compare(
        config, (*HEADS, *STACKS), {n for s in sites for n in (s.num_heads, s.original_num_heads)}, "heads"
    )
    cached = [site for site in sites if site.free]
    # Falcon's number of KV heads is not read where all heads share one.
    if cached and config.get("multi_query") is not True:
        counts = {n for s in cached for n in (s.kv_num_heads, s.original_kv_num_heads)}
        _compare(config, KV_HEADS, counts, "KV heads")


def _compare(config: Mapping[str, Any], names: Iterable[str], found: set[int], what: str) -> None:
    said = {name: config[name] for name in names if type(config.get(name)) is int}
    if said and found and found.isdisjoint(said.values()):
        told = " and ".join(f"{name} {value}" for name, value in said.items())
        counts = " or ".join(map(str, sorted(found)))
        raise RefusedError(
            f"{CONFIG} contradicts the models: it says {told}, and their attention has {counts} {what}; is it that of"
            " another model?"
        )


def _parts(config: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    yield (), config
    yield from (((name,), value) for name, value in config.items() if isinstance(value, dict))


def _widths(config: Mapping[str, Any], kinds: Iterable[UnitKind]) -> Iterator[tuple[str, int]]:
    """The widths that a configuration tells, of parts of a model too."""
    fields = [field for kind in kinds for field in kind.widths]
    for _, part in _parts(config):
        for field in fields:
            if type(part.get(field)) is int:
                yield field, part[field]


def _cached_sites(
    match: Match, heads: Mapping[int, tuple[int, ...]], contract: Contract
) -> tuple[CachedSite, ...]:
    """The sites with caches, before and after a cut."""
    found = [(item, _cached_site(item, match)) for item in match.sites]
    return tuple(
        _cached(item, site, heads.get(item.index, ()), contract) for item, site in found if site is not None
    )


def _cached_site(item: SharedSite, match: Match) -> AttentionSite | None:
    """The site in the file that leads of those that have caches of it; None for a site without."""
    return next(
        (
            site
            for file in match.networks[item.network].files
            for site in file.sites
            if site.free and site.index in item.places.get(file.name, ())
        ),
        None,
    )


def _cached(item: SharedSite, site: AttentionSite, gone: tuple[int, ...], contract: Contract) -> CachedSite:
    groups = original_groups(site)
    dead = tuple(position for position, group in enumerate(groups) if set(group) <= set(gone))
    # A site removed as a whole leaves its cache as it was, or takes it along.
    whole = len(dead) == len(groups)
    same = contract.cache == "keep" or whole or site.held is not None
    before = site.kv_num_heads
    apart = all(any({*site.original(unit)} <= {*group} for group in groups) for unit in site.units)
    leaves = whole and contract.cache == "renumber"
    free = leaves or (apart and site.reason is None and site.held is None)
    return CachedSite(
        item.index,
        item.site.name,
        before,
        before if same else before - len(dead),
        site.head_size,
        groups if free else (),
        dead if free else (),
        leaves,
    )


def _facts_of(file: ModelFile, data_files: int) -> FileFacts:
    """Return what clients ask about a file."""
    graph = file.loaded.proto.graph
    types = {info.type.tensor_type.elem_type for info in (*graph.input, *graph.output)}
    caches = [(value, site) for site in file.sites for value in site.free if value.is_graph_input]
    symbolic = tuple(
        sorted(value.name for value, site in caches if site.kv_num_heads not in (value.shape or ()))
    )
    return FileFacts(
        file.name, types.isdisjoint(OTHER_FLOATS), any(s.free for s in file.sites), data_files, symbolic
    )
