"""From what was decided for an export, or for one of its files, to what happens to each of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from onnx import TensorProto

from onnxheadprune.attention.contract import Contract
from onnxheadprune.attention.heads import HeadSpec, original_groups, resolve_heads
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.graph.view import Value
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.storage.reading import in_memory
from onnxheadprune.selection.activations.linear import feeders
from onnxheadprune.selection.compensation import Compensation
from onnxheadprune.selection.compensation.record import NewNumbers
from onnxheadprune.workflow.clients.contract import CachedSite, FileFacts
from onnxheadprune.workflow.folders.caches import plain
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


def cached_sites(
    match: Match, heads: Mapping[int, tuple[int, ...]], contract: Contract
) -> tuple[CachedSite, ...]:
    """The sites with caches, before and after a cut.

    Args:
        match: the export.
        heads: what goes.
        contract: what may happen to caches.
    """
    cached = {item.index for item in match.sites if _has_cache(item, match)}
    return tuple(
        _cached(item, heads.get(item.index, ()), contract) for item in match.sites if item.index in cached
    )


def _has_cache(item: SharedSite, match: Match) -> bool:
    files = {file.name: file for file in match.networks[item.network].files}
    return any(
        site.free
        for name, indices in item.places.items()
        for site in files[name].sites
        if site.index in indices
    )


def _cached(item: SharedSite, gone: tuple[int, ...], contract: Contract) -> CachedSite:
    groups = original_groups(item.site)
    dead = tuple(position for position, group in enumerate(groups) if set(group) <= set(gone))
    # A site that goes as a whole leaves its cache as it was, or takes it along.
    whole = len(dead) == len(groups)
    same = contract.keep_cache_shape or whole
    before = item.site.kv_num_heads
    return CachedSite(
        item.index,
        item.site.name,
        before,
        before if same else before - len(dead),
        item.site.head_size or item.site.v_head_size,
        groups,
        dead,
        whole and contract.renumber_cache,
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


def carried(numbers: NewNumbers, steps: int, leader: ModelFile, other: ModelFile) -> Compensation | None:
    """Refitted weights for another file that stores the same tensors, by whatever names; None if it does not.

    What makes keys and values that the other file takes over as they are, those of an encoder, need not be there.

    Args:
        numbers: new contents of the leader's tensors, refitted or trained.
        steps: of training that they took.
        leader: the file that they were found on.
        other: the file that is to have them.

    Raises:
        ModelError: if weights cannot be read.
    """
    ours = {item.name: item for item in leader.loaded.proto.graph.initializer}
    wanted = {name: _digest(ours[name], leader.loaded) for name in numbers.stored if name in ours}
    if len(wanted) < len(numbers.stored):
        return None
    shapes = {(ours[name].data_type, tuple(ours[name].dims)) for name in wanted}
    theirs: dict[str, str] = {}
    for tensor in other.loaded.proto.graph.initializer:
        if (tensor.data_type, tuple(tensor.dims)) in shapes:
            theirs.setdefault(_digest(tensor, other.loaded), tensor.name)
    held = {name for name, digest in wanted.items() if digest in theirs}
    if not wanted.keys() - held <= _made_once(leader, other) or len(set(wanted.values())) < len(wanted):
        return None
    return Compensation(
        {theirs[wanted[name]]: array for name, array in numbers.stored.items() if name in held},
        (),
        numbers.data,
        numbers.samples,
        steps=steps,
    )


def _made_once(leader: ModelFile, other: ModelFile) -> set[str]:
    """Tensors that make the caches that the leader gives and the other file only reads: those of an encoder."""
    read = _caches(other, given=False).keys() - _caches(other, given=True).keys()
    made = [value for key, value in _caches(leader, given=True).items() if key in read]
    found: set[str] = set()
    for linear in (linear for value in made for linear in feeders(value)):
        found.add(linear.matrix.stored.name)
        if linear.bias is not None:
            found.add(linear.bias.stored.name)
    return found


def _caches(file: ModelFile, *, given: bool) -> dict[str, Value]:
    """Inputs or outputs that hold keys and values, by their names without what says past or present."""
    values = (value for site in file.sites for value in site.free)
    return {plain(value.name): value for value in values if value.is_graph_output is given}


def _digest(tensor: TensorProto, model: LoadedModel) -> str:
    held = in_memory(tensor, model.sources)
    held.ClearField("name")
    held.ClearField("doc_string")
    held.ClearField("data_location")
    del held.external_data[:]
    return hashlib.sha256(held.SerializeToString(deterministic=True)).hexdigest()
