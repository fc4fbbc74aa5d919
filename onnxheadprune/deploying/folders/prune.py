"""`prune_folder`: one cut through all models of an export, into a folder that appears when all of it is proven."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from onnxheadprune.attention.specs import kinds_named, resolve_units
from onnxheadprune.deploying.folders.configuration import Configuration
from onnxheadprune.deploying.folders.export import CARD, Export, ModelFile, part_of, quantized_to
from onnxheadprune.deploying.folders.matching import HEADS_ALONE, Heads, Match, heads_in, opened
from onnxheadprune.deploying.folders.network import FolderCut, FolderTokens, chosen_kinds
from onnxheadprune.deploying.folders.result import FileResult, FolderResult, model_card, read_card
from onnxheadprune.display.spelling import first_few
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.documents import read_text
from onnxheadprune.model.storage.claims import Backup, Making, Reading, check_makings
from onnxheadprune.model.storage.writing import ITSELF, Assembly, check_data_name, folded
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.settings.calls import PruneCall
from onnxheadprune.settings.units import HEAD, UnitKind, with_parts
from onnxheadprune.workflow.requests import Request, ahead, placed, readings_of, require_for

TRITON = "config.pbtxt"
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
    call: PruneCall,
    progress: Progress = silent,
    ready: Callable[[FolderResult], None] = lambda _: None,
    *,
    beside: Iterable[Making] = (),
    dry_run: bool = False,
    command: str | None = None,
    step: str | None = None,
) -> FolderResult:
    """Remove the same heads and other units from every model of a folder that holds them.

    They are named by the numbers that `inspect` gives the sites of the folder. A target is decided on the most precise
    file of each network and carried to the others. Each file is proven as a single model is.

    Args:
        call: what to do with its models; its output is the new folder, None looks ahead only.
        ready: called with the whole result before the folder has its name; nothing is written if it raises.
        beside: reports, which the caller writes.
        dry_run: check where the call would write, and look ahead only.
        command: what repeats the call, for the model card: a command line, or a line of Python.
        step: the pass that this is of a pipeline, whose later passes may change the models; None outside of one.
    """
    require_for(call, root, is_folder=True)
    call = placed(call, root)
    kept = None if call.backup is None else Backup.of(root, Path(call.backup))
    made = call.output if kept is None else kept.path
    what = "the output" if kept is None else "the backup"
    own = () if made is None else (Making(what, Path(made), kind="new folder", copy_of=root),)
    check_makings([*own, *beside], lambda: [Reading("the folder", root), *readings_of(call)])
    would_write = None
    if dry_run or call.output is None:
        (call, would_write), kept = ahead(call), None
    target = None if call.output is None else Path(call.output)
    request = Request.of(call)
    if call.data_name is not None:
        check_data_name(call.data_name)
    progress(f"reading {root}", 0, 0)
    # Heads are matched whatever is removed: sites have the numbers that they have by them.
    asked = _kinds_asked(request)
    kinds = tuple(dict.fromkeys((*HEADS_ALONE, *asked)))
    export, match = opened(root, follow_links=call.follow_links, kinds=kinds, exclude=call.exclude)
    configuration = Configuration(export, match, request)
    tokens = _tokens(export, request)
    heads = _named(export, match, request)
    configuration.require(None if heads is None and HEAD in asked else heads or {})
    client = configuration.client
    names = _data_names(export, call.data_name or (None if client is None else client.data_name))
    with contextlib.ExitStack() as stack:
        aside = None if kept is None else kept.path
        assembly = None if target is None else stack.enter_context(Assembly(target, aside))
        place = None if assembly is None else assembly.place
        even = configuration.even_caches
        cut = FolderCut(export, match, request, place, names, tokens.files, progress, even)
        cut.warnings.extend(configuration.warnings)
        results, gone = cut.cut(heads)
        configuration.require(gone)
        changes = (*configuration.changes(gone), *tokens.changes)
        following = {**configuration.patched(changes), **tokens.contents}
        copied = _unchanged(export, {item.name for item in results}, {*following, *tokens.left_out})
        card = read_card(root, copied)
        copied = tuple(name for name in copied if card is None or name != CARD)
        warnings = (
            *cut.warnings,
            *_left_out(tokens),
            *configuration.unasked(gone),
            *_made_again(export, match, target),
            *_other_forms(export, copied),
            *_stale_declarations(root, copied, results),
        )
        if assembly is not None:
            progress("copying the rest", 0, 0)
            for name in copied:
                assembly.copy(root / name, name)
            for name, content in following.items():
                assembly.write(name, content)
        found = FolderResult(
            str(root),
            None if target is None else str(target),
            None if client is None else client.name,
            match,
            gone,
            tuple(_in_place(item, target) for item in results),
            copied,
            changes,
            card is not None,
            tuple(dict.fromkeys(warnings)),
            tuple(tokens.contents),
            kept,
            would_write,
        )
        if assembly is not None and card is not None:
            assembly.write(CARD, model_card(found, card, configuration.config, command, step).encode())
        ready(found)
        if assembly is not None:
            assembly.commit()
    return found


def _named(export: Export, match: Match, request: Request) -> Heads | None:
    """Units that were named, checked against every file; None for a target."""
    call = request.call
    if call.has_target:
        if len(match.networks) > 1 and (call.protect is not None or call.scores is not None):
            raise UsageError(
                "units to protect and scores are those of one network, and this folder holds several; name the heads"
                " that go"
            )
        return None
    if request.heads is None and (request.tokens is not None or call.fuse != "none"):
        return {}
    if request.heads is None:
        raise UsageError("name the heads to remove, or give an amount")
    chosen = resolve_units(request.heads, match.as_sites(str(export.root)))
    heads = {index: gone for index, gone in chosen.items() if gone}
    if not heads:
        raise RefusedError("no units were named, so there is nothing to remove")
    for network in match.networks:
        for file in network.files:
            heads_in(file, heads, match)
    return heads


def _kinds_asked(request: Request) -> tuple[UnitKind, ...]:
    """The kinds of sites of which some may lose units."""
    if not request.call.has_target:
        return () if request.heads is None else kinds_named(request.heads)
    return with_parts(chosen_kinds(request.call))


def _tokens(export: Export, request: Request) -> FolderTokens:
    """Return the tokens that are kept, and what follows; nothing where all are."""
    if request.tokens is None:
        return FolderTokens()
    from onnxheadprune.deploying.folders.vocabulary import tokens_of_folder

    return tokens_of_folder(export, request)


def _left_out(tokens: FolderTokens) -> Iterator[str]:
    """A sentence on the files that the new folder lacks, if there are any."""
    if tokens.left_out:
        listed = ", ".join(tokens.left_out)
        yield f"left out, since they hold the tokenizer before the cut: {listed}; tokenizer.json has the new one"


def _stale_declarations(root: Path, copied: Iterable[str], results: Iterable[FileResult]) -> Iterator[str]:
    """A sentence for each configuration of Triton that names inputs or outputs which the cut changes."""
    plans = [item.result.plan for item in results]
    changed = dict.fromkeys(io.name for plan in plans for io in plan.interface)
    changed |= dict.fromkeys(io.name for plan in plans for io in plan.renamed)
    for name in copied:
        if PurePosixPath(name).name == TRITON:
            text = read_text(root / name, "the configuration of Triton")
            named = [item for item in changed if re.search(rf"""(["']){re.escape(item)}\1""", text)]
            if named:
                yield (
                    f"{name} names {first_few(named, 1)}, which the cut changes: Triton loads the model once what it"
                    " declares is updated"
                )


def _in_place(item: FileResult, target: Path | None) -> FileResult:
    if target is None:
        return item
    return replace(item, result=replace(item.result, output=str(target / item.name)))
