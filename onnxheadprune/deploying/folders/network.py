"""One network of an export: units are removed from its leader, and the same ones from every file that holds it."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from onnx import TensorProto

from onnxheadprune.attention.io_changes import LEAVE
from onnxheadprune.attention.specs import resolve_units
from onnxheadprune.choosing.activations.linear import feeders
from onnxheadprune.choosing.allocate import Limits
from onnxheadprune.choosing.compensation.record import Compensation, NewNumbers
from onnxheadprune.choosing.space import CARRIED_OVER, Selection
from onnxheadprune.choosing.targets import PruningTarget
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.deploying.folders.export import Export, ModelFile, or_exclude
from onnxheadprune.deploying.folders.matching import Match, Network
from onnxheadprune.deploying.folders.result import FileResult
from onnxheadprune.deploying.folders.types import Data, FolderRequest
from onnxheadprune.errors import RefusedError, UsageError, ValidationFailedError, named_setting
from onnxheadprune.model.graph.view import Value
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.storage.reading import in_memory
from onnxheadprune.runtime.progress import Note, Progress
from onnxheadprune.settings.units import KINDS, key_of
from onnxheadprune.workflow.choice.chosen import Chosen
from onnxheadprune.workflow.pipeline import run_prune
from onnxheadprune.workflow.requests import Choice, Tokens
from onnxheadprune.workflow.result import PruneResult

_TENSE = re.compile(r"^(past_key_values?|present_key_values?|past|present)(?=[._])")
Heads = dict[int, tuple[int, ...]]
"""Units that go per site, of whatever kind, as indices of the original model."""


@dataclass(frozen=True, eq=False)
class Cutting:
    """Settings that hold for every network of one call."""

    export: Export
    match: Match  # which of its sites belong together
    asked: FolderRequest
    place: Callable[[str], Path] | None  # where a model is written by its name, None to look ahead
    names: Mapping[str, str]  # of data files, by the model's name
    progress: Progress
    warn: Callable[[str], None]  # takes sentences that the user should know
    tokens: Mapping[str, Tokens]  # those that are kept, by the name of each model with a vocabulary
    even_caches: bool = False  # whether the client needs the same number of KV heads in all layers
    begun: list[str] = field(default_factory=list)  # names of the models that are cut so far

    def progress_of(self, name: str) -> Progress:
        """The progress of the cut of one file, which names it and how many there are."""
        known = {file.name for network in self.match.networks for file in network.files}
        place = f"file {len(self.begun)} of {len(known | self.tokens.keys())}, {name}"

        def told(what: str, done: int, of: int) -> None:
            text = f"{place}, {what}"
            self.progress(Note(text) if isinstance(what, Note) else text, done, of)

        return told


def cut_network(
    network: Network, heads: Heads | None, data: Data, cutting: Cutting, waiting: int
) -> tuple[list[FileResult], Heads]:
    """Cut all files of a network.

    Args:
        heads: what goes by the numbers of the export; None for a target, which is decided on the leader.
        waiting: how many networks are still to be cut, this one among them: they share what is left of a time.

    Returns:
        What became of each file that lost heads, and the heads by the numbers of the export.
    """
    leader, asked = network.leader, cutting.asked.request.choice
    if asked.recover is not None:
        asked = replace(asked, recover=asked.recover.turn(waiting, len(network.files)))
    results: list[FileResult] = []
    chosen: Chosen | None = None
    if heads is None:
        target = None if asked.target is None else _within(asked.target, leader, cutting)
        results.append(_cut(leader, replace(asked, target=target), data, cutting))
        heads = _heads_of(leader, _removed(results[0].result), cutting.match)
        chosen = results[0].result.chosen
    elif local := heads_in(leader, heads, cutting.match):
        results.append(_cut(leader, replace(asked, heads=_spec_of(local), target=None), data, cutting))
        chosen = results[0].result.chosen
    for file in network.files[1:]:
        local = heads_in(file, heads, cutting.match)
        if local:
            choice = _followed(local, chosen, leader, file, cutting)
            results.append(_cut(file, choice, _data_if_it_fits(file, cutting.asked), cutting))
    return results, heads


def heads_in(file: ModelFile, heads: Mapping[int, tuple[int, ...]], match: Match) -> Heads:
    """The same units by the numbers that sites have in one file."""
    numbers = match.of(file.name)
    local = {index: heads[number] for index, number in numbers.items() if heads.get(number)}
    if local:
        try:
            resolve_units(_spec_of(local), file.sites)
        except RefusedError as error:
            hint = or_exclude(file.name) if match.is_copy(file) else ""
            raise RefusedError(f"{file.name}: {error}{hint}") from error
    return local


def _spec_of(local: Mapping[int, tuple[int, ...]]) -> dict[str, list[int]]:
    return {key_of(index): list(gone) for index, gone in local.items()}


def cut_vocabularies(done: Sequence[FileResult], cutting: Cutting) -> Iterator[FileResult]:
    """Cut the vocabulary of each file that has not lost any units."""
    named = {item.name for item in done}
    for name in cutting.tokens.keys() - named:
        file = cutting.export.model(name)
        effect = cutting.asked.request.choice.effect
        yield _cut(file, Choice(effect=effect), _data_if_it_fits(file, cutting.asked), cutting)


def _cut(file: ModelFile, choice: Choice, data: Data, cutting: Cutting) -> FileResult:
    request = cutting.asked.request
    output = None if cutting.place is None else cutting.place(file.name)
    cutting.begun.append(file.name)
    progress = cutting.progress_of(file.name)
    progress("pruning", 0, 0)
    request = replace(
        request,
        choice=replace(choice, tokens=cutting.tokens.get(file.name)),
        run=replace(request.run, data=data),
        writing=replace(request.writing, output=output, backup=None, data_name=cutting.names[file.name]),
        proving=replace(request.proving, validate=request.proving.validate and output is not None),
    )
    leads = any(network.leader is file for network in cutting.match.networks)
    hint = or_exclude(file.name) if cutting.match.is_copy(file) else ""
    try:
        result = run_prune(file.loaded, request, progress)
    except ValidationFailedError as error:
        raise ValidationFailedError(f"{file.name}: {error}{hint}", error.validation) from error
    except RefusedError as error:
        raise RefusedError(f"{file.name}: {error}{hint}") from error
    return FileResult(file.name, leads, result)


def _removed(result: PruneResult) -> Heads:
    assert result.chosen is not None
    return dict(result.chosen.selection.heads)


def _heads_of(file: ModelFile, local: Mapping[int, tuple[int, ...]], match: Match) -> Heads:
    numbers = match.of(file.name)
    return {numbers[index]: gone for index, gone in local.items() if gone}


def _called(gone: Mapping[int, tuple[int, ...]]) -> str:
    return " and ".join(kind.units for kind in KINDS if any(map(kind.owns, gone)))


def _within(target: PruningTarget, leader: ModelFile, cutting: Cutting) -> PruningTarget:
    """The target within what the client can express: as many KV heads in layers with a cache, or experts in all."""
    if cutting.asked.client is None:
        return target
    kept = cutting.asked.request.contract.cache == "keep"
    even = cutting.even_caches and not kept and any(site.free for site in leader.sites)
    counted = (kind for kind in KINDS if kind.counted_by and kind.units in target.units)
    if not even and not any(leader.sites.of(kind.units) for kind in counted):
        return target
    limits = target.limits or Limits()
    return replace(target, limits=replace(limits, uniform=True, whole_groups=limits.whole_groups or even))


def _followed(
    local: Heads, chosen: Chosen | None, leader: ModelFile, file: ModelFile, cutting: Cutting
) -> Choice:
    """Return the choice for another file of the network, with the units and refitted weights of its leader."""
    effect = cutting.asked.request.choice.effect
    numbers = None if chosen is None else chosen.numbers
    if chosen is None or numbers is None:
        return Choice(_spec_of(local), effect=effect)
    own = carried(numbers, chosen.steps, leader, file)
    if own is None and file.precision == leader.precision:
        raise RefusedError(
            f"the weights that are refitted in {leader.name} are not stored alike in {file.name}, so the two would"
            f" differ; choose the same {_called(local)} with {named_setting('refit', 'False')}"
        )
    if own is None:
        cutting.warn(
            f"{file.name} loses the same {_called(local)} and is not refitted: its weights are stored in another"
            f" precision than those of {leader.name}; convert the refitted {leader.name} again instead"
        )
        return Choice(_spec_of(local), effect=effect)
    return Choice(effect=effect, decided=Chosen(Selection(local, f"{CARRIED_OVER} {leader.name}"), own))


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
    values = (value for site in file.sites for value in site.free)
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
                        f" {named_setting('cache', 'keep')}"
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


def _data_of(file: ModelFile, asked: FolderRequest) -> Data:
    """The data for one file."""
    data = None if asked.read is None else asked.read(file.loaded)
    if data is not None:
        calibration_data(data, file.view)
    return data


def data_of_leaders(match: Match, asked: FolderRequest) -> tuple[dict[str, Data], dict[str, str]]:
    """The data for the leader of each network that it fits, and why it does not fit the others."""
    found: dict[str, Data] = {}
    unfit: dict[str, str] = {}
    for network in match.networks:
        try:
            found[network.leader.name] = _data_of(network.leader, asked)
        except UsageError as error:
            if len(match.networks) == 1:
                raise
            unfit[network.leader.name] = str(error)
    if not found:
        told = "; ".join(f"{name}: {reason}" for name, reason in unfit.items())
        raise UsageError(f"the data fits none of the models: {told}")
    return found, unfit


def _data_if_it_fits(file: ModelFile, asked: FolderRequest) -> Data:
    """The data for a file that needs none: a proof goes on made-up inputs, too."""
    try:
        return _data_of(file, asked)
    except UsageError:
        return None
