"""From what was decided for an export, or for one of its files, to what happens to each of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from onnx import TensorProto

from onnxheadprune.attention.heads import HeadSpec, original_groups, resolve_heads
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.storage.reading import in_memory
from onnxheadprune.selection.compensation import Compensation
from onnxheadprune.selection.compensation.record import NewNumbers
from onnxheadprune.workflow.clients.contract import CachedSite, FileFacts
from onnxheadprune.workflow.folders.export import FLOAT, ModelFile
from onnxheadprune.workflow.folders.matching import Match, SharedSite

Heads = dict[int, tuple[int, ...]]
"""Heads that go per site, as indices of the original model."""


def named_heads(spec: HeadSpec, match: Match, folder: str) -> Heads:
    """Heads that a user named, by the numbers and names that sites have in the export.

    Raises:
        UsageError: if there is no such site or head.
        RefusedError: if they cannot go together, from any of the files.
    """
    chosen = resolve_heads(spec, match.as_sites(folder))
    return {index: heads for index, heads in chosen.items() if heads}


def heads_in(file: ModelFile, heads: Mapping[int, tuple[int, ...]], match: Match) -> Heads:
    """The same heads by the numbers that sites have in one file.

    Raises:
        RefusedError: if they cannot go together from this file.
    """
    numbers = match.of(file.name)
    local = {index: heads[number] for index, number in numbers.items() if heads.get(number)}
    if local:
        try:
            resolve_heads({str(index): list(gone) for index, gone in local.items()}, file.sites)
        except RefusedError as error:
            raise RefusedError(f"{file.name}: {error}") from error
    return local


def heads_of(file: ModelFile, local: Mapping[int, tuple[int, ...]], match: Match) -> Heads:
    """The inverse: heads that were chosen on one file, by the numbers of the export."""
    numbers = match.of(file.name)
    return {numbers[index]: gone for index, gone in local.items() if gone}


def cached_sites(match: Match, heads: Mapping[int, tuple[int, ...]], *, kept: bool) -> tuple[CachedSite, ...]:
    """The sites with caches, before and after a cut.

    Args:
        match: the export.
        heads: what goes.
        kept: whether caches keep their shapes.
    """
    cached = {item.index for item in match.sites if _has_cache(item, match)}
    return tuple(
        _cached(item, heads.get(item.index, ()), kept) for item in match.sites if item.index in cached
    )


def _has_cache(item: SharedSite, match: Match) -> bool:
    files = {file.name: file for file in match.networks[item.network].files}
    return any(
        site.free
        for name, indices in item.places.items()
        for site in files[name].sites
        if site.index in indices
    )


def _cached(item: SharedSite, gone: tuple[int, ...], kept: bool) -> CachedSite:
    groups = original_groups(item.site)
    dead = tuple(position for position, group in enumerate(groups) if set(group) <= set(gone))
    # A site that goes as a whole leaves its cache as it was.
    same = kept or len(dead) == len(groups)
    before = item.site.kv_num_heads
    return CachedSite(
        item.index,
        item.site.name,
        before,
        before if same else before - len(dead),
        item.site.head_size or item.site.v_head_size,
        groups,
        dead,
    )


def facts_of(file: ModelFile, data_files: int) -> FileFacts:
    """What clients ask about a file.

    Args:
        file: the file.
        data_files: how many files with weights lie beside it.
    """
    caches = [(value, site) for site in file.sites for value in site.free if value.is_graph_input]
    symbolic = tuple(
        sorted(value.name for value, site in caches if site.kv_num_heads not in (value.shape or ()))
    )
    return FileFacts(
        file.name, file.precision == FLOAT, any(s.free for s in file.sites), data_files, symbolic
    )


def carried(numbers: NewNumbers, steps: int, leader: LoadedModel, other: LoadedModel) -> Compensation | None:
    """Refitted weights for another file that stores the same tensors, by whatever names; None if it does not.

    Args:
        numbers: new contents of the leader's tensors, refitted or trained.
        steps: of training that they took.
        leader: the file that they were found on.
        other: the file that is to have them.

    Raises:
        ModelError: if weights cannot be read.
    """
    ours = {item.name: item for item in leader.proto.graph.initializer}
    wanted = {name: _digest(ours[name], leader) for name in numbers.stored if name in ours}
    if len(wanted) < len(numbers.stored):
        return None
    shapes = {(ours[name].data_type, tuple(ours[name].dims)) for name in wanted}
    theirs: dict[str, str] = {}
    for tensor in other.proto.graph.initializer:
        if (tensor.data_type, tuple(tensor.dims)) in shapes:
            theirs.setdefault(_digest(tensor, other), tensor.name)
    if not set(wanted.values()) <= theirs.keys() or len(set(wanted.values())) < len(wanted):
        return None
    return Compensation(
        {theirs[wanted[name]]: array for name, array in numbers.stored.items()},
        (),
        numbers.data,
        numbers.samples,
        steps=steps,
    )


def _digest(tensor: TensorProto, model: LoadedModel) -> str:
    held = in_memory(tensor, model.sources)
    held.ClearField("name")
    held.ClearField("doc_string")
    held.ClearField("data_location")
    del held.external_data[:]
    return hashlib.sha256(held.SerializeToString(deterministic=True)).hexdigest()
