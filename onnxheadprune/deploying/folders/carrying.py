"""From the units chosen for an export to the cut of each of its files, and whether caches fit from file to file."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from onnx import TensorProto

from onnxheadprune.attention.sites.kinds import key_of
from onnxheadprune.attention.units import resolve_units
from onnxheadprune.choosing.activations.linear import feeders
from onnxheadprune.choosing.compensation.record import NewNumbers
from onnxheadprune.choosing.compensation.result import Compensation
from onnxheadprune.deploying.folders.export import ModelFile
from onnxheadprune.deploying.folders.matching import Match
from onnxheadprune.deploying.folders.result import FileResult
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.graph.view import Value
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.storage.reading import in_memory

_TENSE = re.compile(r"^(past_key_values?|present_key_values?|past|present)(?=[._])")


def _plain(name: str) -> str:
    """What a cache is called as past ("past_key_values.0.key") and as present ("present.0.key") alike: ".0.key"."""
    return _TENSE.sub("", name)


def check_caches(files: Sequence[ModelFile], results: Sequence[FileResult]) -> None:
    """Compares the inputs and outputs of one name, and pasts with presents.

    Raises:
        RefusedError: if one gets narrower and another of its kind and size does not.
    """
    changes: dict[tuple[str, str], dict[int, tuple[object, object]]] = defaultdict(dict)
    for item in results:
        for change in item.result.plan.interface:
            if change.axis is not None:
                changes[item.name, change.name][change.axis] = change.before, change.after
    kinds: dict[str, list[tuple[str, str]]] = defaultdict(list)
    shapes = {}
    for file in files:
        for value in file.view.main.values.values():
            outside = value.is_graph_output or (value.is_graph_input and not value.is_initializer)
            if outside and value.shape is not None:
                kinds[_plain(value.name)].append((file.name, value.name))
                shapes[file.name, value.name] = value.shape
    for (file_name, name), axes in changes.items():
        for other in kinds[_plain(name)]:
            shape = shapes[other]
            if len(shape) != len(shapes[file_name, name]):
                continue
            for axis, (before, after) in axes.items():
                theirs = changes.get(other, {}).get(axis)
                after_there = before if theirs is None else theirs[1]
                if shape[axis] == before and after_there != after:
                    raise RefusedError(
                        f"{name} of {file_name} would have {after} in place of {before} on axis {axis}, and {other[1]}"
                        f" of {other[0]} would stay as it is, so the files would not work together; --cache keep"
                        " leaves the caches as they are"
                    )


Heads = dict[int, tuple[int, ...]]
"""Units that go per site, of whatever kind, as indices of the original model."""


def heads_in(file: ModelFile, heads: Mapping[int, tuple[int, ...]], match: Match) -> Heads:
    """The same units by the numbers that sites have in one file.

    Raises:
        RefusedError: if they cannot go together from this file.
    """
    numbers = match.of(file.name)
    local = {index: heads[number] for index, number in numbers.items() if heads.get(number)}
    if local:
        try:
            resolve_units(spec_of(local), file.sites)
        except RefusedError as error:
            raise RefusedError(f"{file.name}: {error}") from error
    return local


def spec_of(local: Mapping[int, tuple[int, ...]]) -> dict[str, list[int]]:
    """Units per index of a site in one file, as a spec for that file."""
    return {key_of(index): list(gone) for index, gone in local.items()}


def carried(numbers: NewNumbers, steps: int, leader: ModelFile, other: ModelFile) -> Compensation | None:
    """Refitted weights for another file that stores the same tensors, by whatever names; None if it does not.

    What makes keys and values that the other file takes over as they are, those of an encoder, need not be there.

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
    return {_plain(value.name): value for value in values if value.is_graph_output is given}


def _digest(tensor: TensorProto, model: LoadedModel) -> str:
    held = in_memory(tensor, model.sources)
    held.ClearField("name")
    held.ClearField("doc_string")
    held.ClearField("data_location")
    del held.external_data[:]
    return hashlib.sha256(held.SerializeToString(deterministic=True)).hexdigest()
