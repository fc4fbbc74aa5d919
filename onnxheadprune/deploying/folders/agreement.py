"""Consistency of the files of a folder: shared refitted weights, and inputs that match outputs of other files."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from onnx import TensorProto

from onnxheadprune.attention.io_changes import LEAVE, cache_cut
from onnxheadprune.choosing.activations.linear import feeders
from onnxheadprune.choosing.compensation.record import Compensation, NewNumbers
from onnxheadprune.deploying.folders.export import Export, ModelFile, not_in, open_export
from onnxheadprune.deploying.folders.matching import Match, looked_at, matched
from onnxheadprune.deploying.folders.result import FileResult
from onnxheadprune.display.spelling import first_few
from onnxheadprune.edit.records import record_of
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.graph.view import Value
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.storage.reading import in_memory
from onnxheadprune.settings.units import KINDS

_TENSE = re.compile(r"^(past_key_values?|present_key_values?|past|present)(?=[._])")


def carried(numbers: NewNumbers, steps: int, leader: ModelFile, other: ModelFile) -> Compensation | None:
    """Refitted weights for another file that stores the same tensors, by whatever names; None if it does not.

    What makes keys and values that the other file takes over as they are, those of an encoder, need not be there.
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
    stored = {theirs[wanted[name]]: array for name, array in numbers.stored.items() if name in held}
    return Compensation(numbers.data, numbers.samples, stored, steps=steps)


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
    values = (value for site in file.sites for value in site.io)
    return {_plain(value.name): value for value in values if value.is_graph_output is given}


def _digest(tensor: TensorProto, model: LoadedModel) -> str:
    held = in_memory(tensor, model.sources)
    held.ClearField("name")
    held.ClearField("doc_string")
    held.ClearField("data_location")
    del held.external_data[:]
    return hashlib.sha256(held.SerializeToString(deterministic=True)).hexdigest()


def check_caches(files: Sequence[ModelFile], results: Sequence[FileResult]) -> None:
    """Compare the inputs and outputs of one name, and pasts with presents."""
    changes: dict[tuple[str, str], dict[int, tuple[object, object]]] = defaultdict(dict)
    for item in results:
        for change in item.result.plan.interface:
            if change.axis is not None:
                changes[item.name, change.name][change.axis] = change.before, change.after
    kinds: dict[str, list[tuple[str, str]]] = defaultdict(list)
    shapes = {}
    for file in files:
        for value in _outside(file):
            if value.shape is not None:
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
                        f" of {other[0]} would stay as it is, so the files would not work together;"
                        f" `cache=keep`"
                        " leaves the caches as they are"
                    )


def check_joins(files: Sequence[ModelFile], renamed: Mapping[str, Mapping[str, str | None]]) -> None:
    """Check that inputs and outputs of one name, pasts and presents included, had one name before, too.

    Args:
        renamed: new names by the old ones, by the name of the file; None for what is removed.
    """
    seen: dict[str, tuple[str, ModelFile]] = {}
    for file in files:
        for before in (value.name for value in _outside(file)):
            after = renamed.get(file.name, {}).get(before, before)
            if after is None:
                continue
            first, other = seen.setdefault(_plain(after), (before, file))
            if _plain(first) != _plain(before):
                raise RefusedError(
                    f"{first} of {other.name} and {before} of {file.name} are different values, and would have one name"
                    f" without the removed caches, so runtimes would take one for the other; {LEAVE}"
                )


def _outside(file: ModelFile) -> Iterator[Value]:
    """The inputs and outputs of a model."""
    for value in file.view.main.values.values():
        if value.is_graph_output or (value.is_graph_input and not value.is_initializer):
            yield value


def _plain(name: str) -> str:
    """Return the suffix that names of past and present caches share: ".0.key" of "past_key_values.0.key"."""
    return _TENSE.sub("", name)


def paired_files(
    model: Path,
    others: Sequence[Path],
    *,
    follow_links: bool,
    leaders: bool,
    note: Callable[[str], None],
) -> list[tuple[ModelFile, tuple[LoadedModel, ...], bool]]:
    """The files of a folder's networks, each with its like in every other folder, and whether it leads its network."""
    exports = [(path, open_export(path, follow_links=follow_links)) for path in others]
    missing = {name for _, export in exports for name in not_in(model, export, follow_links=follow_links)}
    if missing:
        note(f"{first_few(sorted(missing))} of {model} is compared with nothing: other folders left it out")
    original, match, _ = looked_at(model, follow_links=follow_links, exclude=tuple(missing))
    found = []
    for network in match.networks:
        for file in network.files[:1] if leaders else network.files:
            for path, export in exports:
                if all(other.name != file.name for other in export.models):
                    raise RefusedError(f"{path} has no {file.name}, which {model} has")
            likes = tuple(export.model(file.name).loaded for _, export in exports)
            found.append((file, likes, file is network.leader))
    for _, export in exports:
        # Each file may be exact and the folder still broken: all files must lack the same units.
        matched(export)
        _check_alike(match, export)
        check_joins(original.models, {file.name: _renamed(file, export) for file in original.models})
    return found


def _check_alike(match: Match, pruned: Export) -> None:
    """Compare what the files of a folder have lost of the sites that they share."""
    lost = {file.name: _lost_by(file) for file in pruned.models}
    for item in match.sites:
        first: tuple[str, tuple[int, ...]] | None = None
        for name, indices in item.places.items():
            for index in indices if name in lost else ():
                gone = lost[name].get(index, ())
                if first is not None and gone != first[1]:
                    raise RefusedError(
                        f"{first[0]} and {name} of {pruned.root} have lost different {item.site.KIND.units} of"
                        f" {item.site.label}, so they do not work together"
                    )
                first = first or (name, gone)


def _renamed(file: ModelFile, pruned: Export) -> Mapping[str, str | None]:
    """The new names of a file's inputs and outputs, by the record of the pruned one."""
    other = next((item for item in pruned.models if item.name == file.name), file)
    dropped = (record_of(item.loaded.proto).contract.dropped_caches for item in (other, file))
    went = set.difference(*map(set, dropped))
    return cache_cut(file.view, file.sites, [site for site in file.sites if site.index in went]).names


def _lost_by(file: ModelFile) -> dict[int, tuple[int, ...]]:
    """The units that a model has lost by its own record, per site index."""
    return {
        kind.first + entry.number: tuple(sorted(entry.removed))
        for kind in KINDS
        for entry in record_of(file.loaded.proto).of(kind.units)
    }
