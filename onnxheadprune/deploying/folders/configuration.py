"""The configuration of a folder and its runtime: checked before and after a cut, patched in the fields that follow."""

from __future__ import annotations

import contextlib
import importlib
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
from onnxheadprune.deploying.clients.layers import KV_HEADS, even_heads, layers_follow
from onnxheadprune.deploying.clients.optimum import HEADS, STACKS
from onnxheadprune.deploying.folders.export import Export, ModelFile
from onnxheadprune.deploying.folders.matching import Heads, Match, SharedSite
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.typed_json import json_text
from onnxheadprune.settings.registry import RUNTIMES
from onnxheadprune.workflow.requests import Request

INDENT = 2
OTHER_FLOATS = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})


class Configuration:
    """The configuration of a folder as its models and its runtime have it."""

    def __init__(self, export: Export, match: Match, request: Request) -> None:
        """Read it."""
        self.export, self.match, self.request = export, match, request
        runtime = request.call.runtime
        self.client: Client | None = None if runtime is None else client_named(runtime)
        self.config, self.genai = export.document(CONFIG), export.document(GENAI_CONFIG)
        _check_config(self.config, match)
        self.warnings: tuple[str, ...] = ()

    @property
    def even_caches(self) -> bool:
        """True if the client needs the same number of KV heads in all layers."""
        return self.client is not None and self.client.caches(self._deployment({})) is not None

    def require(self, heads: Heads | None) -> None:
        """Check whether the client loads the folder and can express a cut; None if heads are yet to be chosen."""
        if self.client is not None:
            self.warnings = checked(self.client, self._deployment(heads or {}))
        self.changes(heads or {})
        if self.client is not None:
            self._require_caches(self.client, heads)

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
            number, size = _allocated(client, before) or (0, 0)
            raise RefusedError(
                f"{client.title} cannot run this folder unpruned either: from the configuration it computes caches of"
                f" {number} heads of size {size}, and those of {wrong.name} have {wrong.before} of size"
                f" {wrong.head_size}; correct the configuration, or leave `runtime` out"
            )

    def _computed_otherwise(self, client: Client, heads: Heads) -> CachedSite | None:
        """The first site whose caches are not what the client computes from the configuration as a cut leaves it."""
        after = self._deployment(heads)
        if _allocated(client, after) is None:
            return None
        written = {name: json.loads(text) for name, text in self.patched(self.changes(heads)).items()}
        after = replace(
            after, config=written.get(CONFIG, self.config), genai=written.get(GENAI_CONFIG, self.genai)
        )
        computed = _allocated(client, after)
        return next(
            (site for site in after.sites if not site.leaves and computed != (site.after, site.head_size)),
            None,
        )

    def changes(self, heads: Heads) -> tuple[ConfigChange, ...]:
        """The fields of configuration files that must follow a cut."""
        changes = () if self.client is None else followed(self.client, self._deployment(heads))
        return (*changes, *(change for change in self._counted(heads) if change not in changes))

    def patched(self, changes: Iterable[ConfigChange]) -> dict[str, bytes]:
        """The configuration files that change, with their new contents; every other field stays unchanged."""
        documents: dict[str, dict[str, Any]] = {}
        for change in changes:
            inner = documents.setdefault(change.file, self.export.document(change.file))
            for name in change.field[:-1]:
                inner = inner.setdefault(name, {})
            inner[change.field[-1]] = change.after
        return {
            name: (json_text(document, indent=INDENT, ascii_only=False, nan=True) + "\n").encode()
            for name, document in documents.items()
        }

    def _counted(self, gone: Heads) -> Iterator[ConfigChange]:
        """Yield each field with one number of units for all sites, where all keep equally many."""
        for kind in {item.site.KIND for item in self.match.sites if gone.get(item.index)}:
            sites = [(item.index, item.site) for item in self.match.of_kind(kind)]
            left = {len(site.original_units) - len(gone.get(index, ())) for index, site in sites}
            before = {len(site.original_units) for _, site in sites}
            for way, part in _parts(self.config) if len(left) == 1 else ():
                for field in kind.counted_by:
                    if type(value := part.get(field)) is int and value in before:
                        yield ConfigChange(CONFIG, (*way, field), value, *left)

    def unasked(self, heads: Heads) -> Iterator[str]:
        """A sentence if caches get narrower and nobody has said what must follow."""
        if self.client is not None or not self.config:
            return
        deployment = self._deployment(heads)
        if deployment.lost_caches:
            yield (
                "caches are removed, and config.json is not updated: programs that count them by its number of layers"
                " need `runtime`, which updates the field"
            )
        if deployment.cut_caches:
            yield (
                "caches get narrower, and config.json is not updated: programs that compute their shapes from it (as"
                " Optimum does) need `runtime`, which updates the fields"
            )

    def _deployment(self, heads: Heads) -> Deployment:
        files = tuple(_facts_of(file, self._data_files(file)) for file in self.export.models)
        sites = _cached_sites(self.match, heads, self.request.contract)
        return Deployment(files, self.config, sites, self.export.others, self.genai)

    def _data_files(self, file: ModelFile) -> int:
        policy = self.request.call.external_data
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
    cached = [site for site in sites if site.io]
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
            if site.io and site.index in item.places.get(file.name, ())
        ),
        None,
    )


def _cached(item: SharedSite, site: AttentionSite, gone: tuple[int, ...], contract: Contract) -> CachedSite:
    groups = original_groups(site)
    dead = tuple(position for position, group in enumerate(groups) if set(group) <= set(gone))
    # A site removed as a whole leaves its cache as it was, or takes it along.
    whole = len(dead) == len(groups)
    same = contract.cache == "keep" or whole or site.io_refusal is not None
    before = site.kv_num_heads
    apart = all(any({*site.original(unit)} <= {*group} for group in groups) for unit in site.units)
    leaves = whole and contract.cache == "renumber"
    free = leaves or (apart and site.reason is None and site.io_refusal is None)
    return CachedSite(
        item.index,
        item.site.name,
        before,
        before if same else before - len(dead),
        site.head_size,
        groups if free else (),
        leaves,
    )


def _facts_of(file: ModelFile, data_files: int) -> FileFacts:
    """The facts of a file that clients ask for."""
    graph = file.loaded.proto.graph
    types = {info.type.tensor_type.elem_type for info in (*graph.input, *graph.output)}
    caches = [(value, site) for site in file.sites for value in site.io if value.is_graph_input]
    symbolic = tuple(
        sorted(value.name for value, site in caches if site.kv_num_heads not in (value.shape or ()))
    )
    return FileFacts(
        file.name, types.isdisjoint(OTHER_FLOATS), any(s.io for s in file.sites), data_files, symbolic
    )


def _allocated(client: Client, folder: Deployment) -> tuple[int, int] | None:
    """The heads of a cache and their size as a runtime computes them from the configuration, None where not known."""
    fields = client.caches(folder)
    return None if fields is None else fields.allocated


def client_named(name: str) -> Client:
    """A runtime by its name."""
    if name not in RUNTIMES:
        raise UsageError(f"there is no runtime {name!r}; known are {', '.join(RUNTIMES)}")
    module = importlib.import_module(RUNTIMES[name])
    found: Client = module.CLIENT
    return found


def checked(client: Client, cut: Deployment) -> tuple[str, ...]:
    """Check that a runtime loads a folder; return notes for its users."""
    notes = client.check(cut)
    symbolic = [(file.name, file.symbolic[0]) for file in cut.files if file.symbolic]
    if client.heads_of_inputs and cut.cut_caches and symbolic:
        name, value = symbolic[0]
        raise RefusedError(
            f"{client.title} reads the heads of caches from the inputs, and {name} does not say how many {value}"
            f" has; `cache=keep` leaves the caches as they are"
        )
    missing = [name for name in client.reads if name not in cut.others]
    if not missing:
        return notes
    names = " and ".join(missing)
    told = f"{client.title} reads {names}, and there is none: it cannot load this folder unpruned either"
    return (*notes, told)


def followed(client: Client, cut: Deployment) -> tuple[ConfigChange, ...]:
    """The fields of configuration files that must follow a cut."""
    fields = client.caches(cut)
    caches = () if fields is None or not cut.cut_caches else fields.following(*even_heads(cut, client.title))
    return (*caches, *client.changes(cut), *layers_follow(cut, client))
