"""`prune_folder`: one cut through all models of an export, into a folder that appears when all of it is proven."""

from __future__ import annotations

import contextlib
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from onnxheadprune.attention.specs import HeadSpec, kinds_named, resolve_units
from onnxheadprune.choosing.targets import PruningTarget
from onnxheadprune.deploying.folders.card import model_card, read_card
from onnxheadprune.deploying.folders.deploying import Deploying
from onnxheadprune.deploying.folders.export import CARD, Export, ModelFile, part_of, quantized_to
from onnxheadprune.deploying.folders.matching import HEADS_ALONE, Match, Network
from onnxheadprune.deploying.folders.network import (
    Cutting,
    Heads,
    check_caches,
    check_joins,
    cut_network,
    cut_vocabularies,
    data_of_leaders,
    heads_in,
)
from onnxheadprune.deploying.folders.opening import opened
from onnxheadprune.deploying.folders.result import FileResult, FolderResult
from onnxheadprune.deploying.folders.triton import stale_declarations
from onnxheadprune.deploying.folders.types import Data, FolderRequest, FolderTokens
from onnxheadprune.errors import RefusedError, UsageError, named_setting, spelled
from onnxheadprune.model.spelling import first_few
from onnxheadprune.model.storage.claims import Backup, Making, check_makings
from onnxheadprune.model.storage.writing import ITSELF, Assembly, check_data_name, folded
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.settings.units import DEFAULT_UNITS, HEAD, KINDS, UnitKind, with_parts
from onnxheadprune.workflow.requests import Choice

_UNPRUNED = (
    "model*.safetensors",
    "pytorch_model*.bin",
    "tf_model*.h5",
    "flax_model*.msgpack",
    "openvino_model*.xml",
    "rust_model.ot",
    "*.ort",
    "*.gguf",
)
"""Files that hold the same model in another form."""


_QUANTIZE = "onnxheadprune quantize {} --to {} -o {}"


def _unchanged(export: Export, cut: Collection[str], rewritten: Collection[str]) -> tuple[str, ...]:
    """Files that are copied unchanged: models that lose nothing with their weights, and all that is no model."""
    kept = [name for file in export.models if file.name not in cut for name in (file.name, *file.weights)]
    return tuple(sorted({*kept, *(name for name in export.others if name not in rewritten)}))


def _made_again(export: Export, match: Match, target: Path | None) -> Iterator[str]:
    """A sentence for each model that is left out: the command that makes it again."""
    home = target or Path("OUT")
    leaders = {file.part: network.leader.name for network in match.networks for file in network.files}
    for name in export.excluded:
        source, to = leaders.get(part_of(name)), quantized_to(name)
        if source is None or to is None:
            yield f"{name} is left out"
        else:
            before, after = (shlex.quote(str(home / place)) for place in (source, name))
            yield f"{name} is left out; this makes it again: {_QUANTIZE.format(before, to, after)}"


def _other_forms(export: Export, copied: Sequence[str]) -> Iterator[str]:
    """A sentence if the folder holds the model in other forms, which no cut reaches."""
    homes = {PurePosixPath(name).parent for name in ("model", "openvino/model")}
    homes |= {PurePosixPath(file.name).parent for file in export.models}
    found = [
        name
        for name in copied
        if (path := PurePosixPath(name)).parent in homes
        if any(fnmatch(path.name, pattern) for pattern in _UNPRUNED)
    ]
    if found:
        yield (
            f"{first_few(found, 1)} holds the model before the cut, and is copied as it is: make sure that nothing"
            " loads it"
        )


USUAL = "{}_data"
"""As exporters call it that write for the hub."""


def _data_names(export: Export, pattern: str | None) -> dict[str, str]:
    """The name of the data file of each model, should it have one: as asked for, or as the layout has it.

    Args:
        pattern: what is asked for, `{}` in the place of the model's name; None keeps what is there.
    """
    found = {}
    for file in export.models:
        asked = pattern or _usual(file, export)
        found[file.name] = asked.replace(ITSELF, PurePosixPath(file.name).name)
    seen: dict[str, str] = {}
    for file in export.models:
        place = PurePosixPath(file.name).with_name(found[file.name])
        if folded(str(place)) in _taken(export, file):
            raise UsageError(
                f"the data file of {file.name} cannot be called {place.name}: that file is there already"
            )
        other = seen.setdefault(folded(str(place)), file.name)
        if other != file.name and (pattern is not None or file.loaded.data_files):
            raise UsageError(
                f"{other} and {file.name} would both have the data file {place.name}; let the name hold"
                f" {ITSELF}, which stands for that of the model"
            )
    return found


def _taken(export: Export, file: ModelFile) -> set[str]:
    weights = {name for other in export.models if other is not file for name in other.weights}
    names = {item.name for item in export.models} | set(export.others) | weights.difference(file.weights)
    folders = {str(above) for name in names for above in PurePosixPath(name).parents}
    return set(map(folded, names | folders))


def _usual(file: ModelFile, export: Export) -> str:
    """The name that the model's data file has, where no other model uses it."""
    users = Counter(path for item in export.models for path in set(item.loaded.data_files))
    for location, source in sorted(file.loaded.sources.items()):
        if source.path in file.loaded.data_files and users[source.path] == 1:
            return PurePosixPath(location).name.replace(PurePosixPath(file.name).name, ITSELF)
    return USUAL


def prune_folder(
    root: Path,
    asked: FolderRequest,
    progress: Progress = silent,
    ready: Callable[[FolderResult], None] = lambda _: None,
) -> FolderResult:
    """Remove the same heads and other units from every model of a folder that holds them.

    They are named by the numbers that `inspect` gives the sites of the folder. A target is decided on the most precise
    file of each network and carried to the others. Each file is proven as a single model is.

    Args:
        ready: called with the whole result before the folder has its name; nothing is written if it raises.
    """
    output = asked.request.writing.output
    target = None if output is None else Path(output)
    backup = asked.request.writing.backup
    kept = None if backup is None else Backup.of(root, Path(backup))
    if kept is not None:
        check_makings([Making("the backup", kept.path, kind="new folder", copy_of=root)], list)
    elif target is not None:
        check_makings([Making("the output", target, kind="new folder", copy_of=root)], list)
    if asked.data_name is not None:
        check_data_name(asked.data_name)
    progress(f"reading {root}", 0, 0)
    # Heads are matched whatever goes: sites have the numbers that they have by them.
    kinds = tuple(dict.fromkeys((*HEADS_ALONE, *_kinds_asked(asked.request.choice))))
    export, match = opened(root, follow_links=asked.follow_links, kinds=kinds, exclude=asked.exclude)
    deploying = Deploying(export, match, asked)
    tokens = _tokens(export, asked)
    heads = _named(export, match, asked)
    chosen = heads is None and HEAD in _kinds_asked(asked.request.choice)
    deploying.require(None if chosen else heads or {})
    pattern = asked.data_name or (None if asked.client is None else asked.client.data_name)
    names = _data_names(export, pattern)
    warnings: list[str] = list(deploying.warnings)
    with contextlib.ExitStack() as stack:
        aside = None if kept is None else kept.path
        assembly = None if target is None else stack.enter_context(Assembly(target, aside))
        place = None if assembly is None else assembly.place
        cutting = Cutting(
            export,
            match,
            asked,
            place,
            names,
            progress,
            warnings.append,
            tokens.files,
            deploying.even_caches,
        )
        results, gone = _cut(heads, cutting)
        results += cut_vocabularies(results, cutting)
        deploying.require(gone)
        changes = (*deploying.changes(gone), *tokens.changes)
        following = {**deploying.patched(changes), **tokens.contents}
        copied = _unchanged(export, {item.name for item in results}, {*following, *tokens.left_out})
        card = read_card(root, copied)
        copied = tuple(name for name in copied if card is None or name != CARD)
        warnings += [
            *_left_out(tokens),
            *deploying.unasked(gone),
            *deploying.told_widths(gone),
            *_made_again(export, match, target),
            *_other_forms(export, copied),
            *stale_declarations(root, copied, results),
        ]
        if assembly is not None:
            progress("copying the rest", 0, 0)
            for name in copied:
                assembly.copy(root / name, name)
            for name, content in following.items():
                assembly.write(name, content)
        finished = tuple(_in_place(item, target) for item in results)
        title = None if asked.client is None else asked.client.name
        told = tuple(map(spelled, dict.fromkeys(warnings)))
        written = None if target is None else str(target)
        has_card = card is not None
        found = FolderResult(
            str(root),
            written,
            title,
            match,
            gone,
            finished,
            copied,
            changes,
            has_card,
            told,
            tuple(tokens.contents),
            kept,
        )
        if assembly is not None and card is not None:
            assembly.write(
                CARD, model_card(found, card, deploying.config, asked.command, asked.step).encode()
            )
        ready(found)
        if assembly is not None:
            assembly.commit()
    return found


def _named(export: Export, match: Match, asked: FolderRequest) -> Heads | None:
    """Units that were named, checked against every file; None for a target."""
    choice = asked.request.choice
    if choice.target is not None:
        if len(match.networks) > 1 and (
            choice.target.protect is not None or choice.target.scores is not None
        ):
            raise UsageError(
                "units to protect and scores are those of one network, and this folder holds several; name the heads"
                " that go"
            )
        return None
    if choice.heads is None and choice.tokens is not None:
        return {}
    if choice.heads is None:
        raise UsageError("name the heads to remove, or give an amount")
    heads = _named_heads(choice.heads, match, str(export.root))
    if not heads:
        raise RefusedError("no units were named, so there is nothing to remove")
    for network in match.networks:
        for file in network.files:
            heads_in(file, heads, match)
    return heads


def _named_heads(spec: HeadSpec, match: Match, folder: str) -> Heads:
    """Units that a user named, by the numbers and names that sites have in the export."""
    chosen = resolve_units(spec, match.as_sites(folder))
    return {index: heads for index, heads in chosen.items() if heads}


def _tokens(export: Export, asked: FolderRequest) -> FolderTokens:
    """Return the tokens that are kept, and what follows; nothing where all are."""
    if asked.request.choice.tokens is None:
        return FolderTokens()
    from onnxheadprune.deploying.folders.vocabulary import tokens_of_folder

    return tokens_of_folder(export, asked)


def _left_out(tokens: FolderTokens) -> Iterator[str]:
    """A sentence on the files that the new folder lacks, if there are any."""
    if tokens.left_out:
        listed = ", ".join(tokens.left_out)
        yield f"left out, since they hold the tokenizer before the cut: {listed}; tokenizer.json has the new one"


def _cut(heads: Heads | None, cutting: Cutting) -> tuple[list[FileResult], Heads]:
    """Cut every network that loses heads."""
    data: dict[str, Data] = {}
    unfit: dict[str, str] = {}
    if cutting.asked.read is not None:
        data, unfit = data_of_leaders(cutting.match, cutting.asked)
        if heads is None:
            for name, why in unfit.items():
                cutting.warn(_without_data(name, why, cutting))
    results: list[FileResult] = []
    gone: Heads = {}
    networks = [
        network
        for network in _cuttable(heads, unfit, cutting)
        if heads is None or any(heads_in(file, heads, cutting.match) for file in network.files)
    ]
    for done, network in enumerate(networks):
        found, removed = cut_network(
            network, heads, data.get(network.leader.name), cutting, len(networks) - done
        )
        results += found
        gone |= removed
    # An encoder may output what a decoder takes as a cache.
    check_caches(cutting.export.models, results)
    renamed = {item.name: {io.name: io.after for io in item.result.plan.renamed} for item in results}
    check_joins(cutting.export.models, renamed)
    return results, gone


def _cuttable(heads: Heads | None, unfit: Container[str], cutting: Cutting) -> Iterator[Network]:
    """The networks that may lose units. Others have no such sites, or costs that nobody knows."""
    target = cutting.asked.request.choice.target
    found = 0
    for number, network in enumerate(cutting.match.networks):
        held = {item.site.KIND for item in cutting.match.sites if item.network == number}
        if target is not None and (
            held.isdisjoint(_kinds_chosen(target)) or (network.leader.name in unfit and _is_measured(target))
        ):
            continue
        found += 1
        yield network
    if not found and heads is None:
        raise RefusedError(
            f"no network of the folder has a site that may lose units; name other {named_setting('units')}"
        )


def _kinds_asked(choice: Choice) -> tuple[UnitKind, ...]:
    """The kinds of sites of which some may lose units."""
    if choice.target is None:
        return () if choice.heads is None else kinds_named(choice.heads)
    return with_parts(_kinds_chosen(choice.target))


def _kinds_chosen(target: PruningTarget) -> set[UnitKind]:
    """The kinds of units that a target removes."""
    return {kind for kind in KINDS if kind.units in target.units}


def _without_data(name: str, why: str, cutting: Cutting) -> str:
    """Return the note on a network that the data does not fit."""
    target = cutting.asked.request.choice.target
    if target is not None and _is_measured(target):
        return f"{name} is left unchanged: its units are scored on data, and the data does not fit it: {why}"
    return f"the heads of {name} were chosen by its weights alone, since the data is not for it: {why}"


def _is_measured(target: PruningTarget) -> bool:
    """Return whether a target can only be met with data: units of several kinds are not compared by weights."""
    return target.units != DEFAULT_UNITS


def _in_place(item: FileResult, target: Path | None) -> FileResult:
    if target is None:
        return item
    return replace(item, result=replace(item.result, output=str(target / item.name)))
