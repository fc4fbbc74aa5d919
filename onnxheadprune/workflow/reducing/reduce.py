"""From a model that a command fails on to a small one without names and weights that it fails on as well."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from onnxheadprune.attention.heads import HeadSpec
from onnxheadprune.errors import ModelError, RefusedError, UsageError
from onnxheadprune.model.load import LoadedModel, check_model, open_structure
from onnxheadprune.model.save import check_target, save_model
from onnxheadprune.model.storage.reading import hydrated
from onnxheadprune.model.storage.tensors import stored_size, tensors_of
from onnxheadprune.model.storage.written import one_call
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.workflow.reducing.anonymous import names_in, renamed, stripped
from onnxheadprune.workflow.reducing.ending import Ending, Failure, told, words
from onnxheadprune.workflow.reducing.hollow import INDICES, filled, hollow_out, is_structure
from onnxheadprune.workflow.reducing.line import Heads, Line, read_heads
from onnxheadprune.workflow.reducing.parts import nodes_of
from onnxheadprune.workflow.reducing.passes import FIRST, LAST, ROUND, tells_something
from onnxheadprune.workflow.reducing.process import Trier
from onnxheadprune.workflow.reducing.search import SAME_NAME, Bench, OutOfTimeError, Search, Soundness


@dataclass(frozen=True)
class ReduceRequest:
    """What a reduction is asked for, but for the model.

    Attributes:
        line: the command line, without heads.
        heads: the head spec of the command line, None without.
        output: where the reduced model goes.
        saying: text that the command must print; None: it must end with the same error.
        seconds: how long to try.
        seed: of the random weights.
    """

    line: Line
    heads: HeadSpec | None
    output: Path
    saying: str | None = None
    seconds: float = 600.0
    seed: int = 0


@dataclass(frozen=True)
class Reduction:
    """A reduced model.

    Attributes:
        model: the original's name.
        output: where the reduced model is.
        command: the command line that fails on it.
        ending: how.
        nodes: of the original and the reduced model.
        elements: that their tensors hold.
        numbers: tensors whose numbers, other than sizes and axes, had to stay.
        trials: how many candidates were run.
        stopped: "" if nothing more can go, else what ended the search.
        confirmed: whether it fails in a fresh process, too.
        valid: whether `onnx.checker` accepts it, as it did the original.
    """

    model: str
    output: str
    command: str
    ending: Ending
    nodes: tuple[int, int]
    elements: tuple[int, int]
    numbers: int
    trials: int
    stopped: str
    confirmed: bool
    valid: bool
    proto: ModelProto = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "model": self.model,
            "output": self.output,
            "command": self.command,
            "failure": {
                "exit_code": self.ending.exit_code,
                "kind": self.ending.kind,
                "error": self.ending.sentence,
                "place": self.ending.place,
                "told": told(self.ending),
            },
            "nodes": dict(zip(("before", "after"), self.nodes, strict=True)),
            "elements": dict(zip(("before", "after"), self.elements, strict=True)),
            "tensors_with_original_numbers": self.numbers,
            "trials": self.trials,
            "stopped": self.stopped,
            "confirmed": self.confirmed,
            "valid": self.valid,
        }


@one_call()
def reduce_model(
    path: Path,
    request: ReduceRequest,
    trier: Trier,
    progress: Progress = silent,
    ready: Callable[[Reduction], None] = lambda _: None,
) -> Reduction:
    """Makes a model small and anonymous while a command keeps failing on it, and writes it.

    Args:
        path: the model.
        request: what is asked for.
        trier: runs command lines.
        progress: told how small the model is.
        ready: called with the whole result before the model has its name; nothing is written if it raises.

    Returns:
        The smallest one that was found until nothing more could go, the time was up, or an interrupt came.

    Raises:
        UsageError: if the command does not fail on the model.
        RefusedError: if the failure goes away with names, metadata or weights.
        ModelError: if the model's structure cannot be read.
    """
    loaded = open_structure(path)
    target = check_target(request.output, loaded)
    heads = read_heads(request.heads, loaded)
    with tempfile.TemporaryDirectory(prefix="onnxheadprune-") as name:
        folder = Path(name)
        until = time.monotonic() + request.seconds
        bench = Bench(request.line, trier, folder, request.seed, until)
        progress("running the command on the model", 0, 0)
        ending = bench.run(path, heads)
        _require_failure(ending, request)
        failure = Failure(ending, _plain_names(loaded, path), request.saying)
        search = Search(bench, failure, Soundness(_is_valid(loaded), trier.runs(str(path))), progress)
        stopped = _searched(search, loaded, heads)
        found = _reduction(search, loaded, target, stopped)
        ready(found)
        save_model(found.proto, target)
        return found


def _require_failure(ending: Ending, request: ReduceRequest) -> None:
    """Raises a UsageError unless there is something to be shown."""
    if request.saying is not None:
        if request.saying not in ending.output:
            raise UsageError(
                f"{request.line.command} does not print {request.saying!r} for this model; there is nothing to reduce"
            )
    elif ending.exit_code == 0:
        raise UsageError(
            f"{request.line.command} does not fail on this model, so there is nothing to reduce; name what it prints"
            " with --saying if that is what is wrong"
        )


def _plain_names(loaded: LoadedModel, path: Path) -> frozenset[str]:
    """Names that could be words of a sentence, and the parts of the path that could."""
    names = {path.name, path.stem, loaded.name, *path.parts, *names_in(loaded.proto)}
    # Sites are called after modules, whose names stand in front of those of their tensors and nodes.
    modules = (part for name in names for part in re.split(r"[./]", name)[:-1])
    return frozenset(word for name in (*names, *modules) for word in (*words(name), name) if word.isalpha())


def _is_valid(loaded: LoadedModel) -> bool:
    try:
        check_model(loaded.proto, loaded.name, full=True)
    except ModelError:
        return False
    return True


def _searched(search: Search, loaded: LoadedModel, heads: Heads | None) -> str:
    """Searches, and says what ended it.

    Raises:
        RefusedError: if the failure goes away without names and weights.
    """
    try:
        _start(search, loaded, heads)
        for step in FIRST:
            step(search)
        _until_stable(search)
        for step in LAST:
            step(search)
    except OutOfTimeError:
        stopped = "the time was up"
    except KeyboardInterrupt:
        stopped = "interrupted"
    else:
        return ""
    if search.best is not None:
        return stopped
    if stopped == "interrupted":
        raise KeyboardInterrupt
    raise UsageError("the time was up before the first trial ended; give a larger --budget")


def _until_stable(search: Search) -> None:
    before = b""
    while before != (now := search.case.model.SerializeToString(deterministic=True)):
        before = now
        for step in ROUND:
            step(search)


def _start(search: Search, loaded: LoadedModel, heads: Heads | None) -> None:
    """The first case: the whole model without names, metadata and weights.

    Raises:
        RefusedError: if it does not fail as the original does.
    """
    for candidate in anonymous_forms(loaded):
        if search.tries(candidate, heads):
            search.write(candidate)
            # From here on sentences are compared with one that has no names in it.
            ending = search.ending(search.case.heads)
            search.failure = Failure(ending, saying=search.failure.saying)
            return
    raise RefusedError(f"the failure goes away {_what_it_hangs_on(search, loaded, heads)}")


def anonymous_forms(loaded: LoadedModel) -> Iterator[ModelProto]:
    """The model without names and weights: functions inlined or not, tables of indices random or not."""
    for proto in (loaded.proto, *([] if loaded.stored is None else [loaded.stored])):
        for tables in (False, True):
            made = renamed(stripped(proto))
            for stored in tensors_of(made):
                if not is_structure(stored) and not (tables and stored.tensor.data_type in INDICES):
                    hollow_out(stored.tensor)
            yield made


def _what_it_hangs_on(search: Search, loaded: LoadedModel, heads: Heads | None) -> str:
    """The rest of a sentence that begins with: the failure goes away."""
    whole = hydrated(loaded.as_stored, loaded.sources)
    steps = (
        (whole, "in a copy of the model, so there is nothing to go by; try again"),
        (stripped(whole), "without the model's metadata, and a model with them would not be anonymous"),
        (renamed(stripped(whole)), "without the model's names, and a model with them would not be anonymous"),
    )
    for model, sentence in steps:
        search.write(model, finished=True)
        if not search.failure.is_shown_by(search.ending(heads)):
            return sentence
    return "with random weights, and a model with the original's would not be anonymous"


def _reduction(search: Search, loaded: LoadedModel, target: Path, stopped: str) -> Reduction:
    """The best case, after it was tried once more in a fresh process."""
    case, bench = search.case, search.bench
    made = filled(case.model, bench.seed)
    # The file that the last trial left may be one of another candidate, and the process one that has seen many.
    search.write(case.model)
    bench.trier.renew()
    ending = search.ending(case.heads)
    shown = replace(
        ending, sentence=ending.sentence.replace(str(bench.folder / SAME_NAME), target.name), output=""
    )
    original = loaded.as_stored
    return Reduction(
        loaded.name,
        str(target),
        bench.line.spelled(target.name, case.heads),
        shown,
        (sum(1 for _ in nodes_of(original)), sum(1 for _ in nodes_of(made))),
        (stored_size(original).elements, stored_size(made).elements),
        sum(1 for stored in tensors_of(case.model) if tells_something(stored)),
        search.trials,
        stopped,
        search.failure.is_shown_by(ending),
        search.soundness.valid,
        made,
    )
