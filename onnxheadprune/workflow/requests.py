"""One cut as a value: the call that asks for it, and what was read for it. It is handed down unchanged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from onnxheadprune.attention.io_changes import Contract
from onnxheadprune.attention.specs import combined
from onnxheadprune.errors import UsageError
from onnxheadprune.model.storage.claims import Reading, backup_path, named_files
from onnxheadprune.settings.calls import PruneCall
from onnxheadprune.settings.cutting import Scoring, Selecting, units_of, value_names
from onnxheadprune.settings.setting import declared
from onnxheadprune.settings.units import SCORED

if TYPE_CHECKING:
    # Commands make requests before anything heavy is imported.
    from onnxheadprune.attention.specs import HeadSpec
    from onnxheadprune.choosing.compensation.record import Compensation
    from onnxheadprune.data.drift import Measure
    from onnxheadprune.runtime.feeds.data import DataSource
    from onnxheadprune.training.budget import Budget

Chooses = TypeVar("Chooses", bound=Selecting | Scoring)


@dataclass(frozen=True)
class Tokens:
    """The tokens that are kept, of a model or of a folder."""

    # their ids, or a file with tokens or ids; None for the most frequent ones of the data
    keep: str | os.PathLike[str] | Sequence[int] | None = None
    size: int | None = None  # how many are kept; None for all that `keep` names
    inputs: tuple[str, ...] = ()  # names of the inputs with token ids; without, they are found by dataflow
    rows: int | None = None  # how many tokens there are, where another file of the folder says so
    # names of the outputs with a number for each token; None where the model decides
    logits: tuple[str, ...] | None = None

    @classmethod
    def of(cls, call: PruneCall) -> Tokens | None:
        """Return which tokens a call keeps; None where all are."""
        if call.vocab is None and call.vocab_size is None:
            return None
        logits = None if call.token_logits is None else value_names(call.token_logits)
        inputs = () if call.token_ids is None else value_names(call.token_ids)
        return cls(call.vocab, call.vocab_size, inputs, logits=logits)


@dataclass(frozen=True)
class Request:
    """All that one cut is asked for, but for the model."""

    call: PruneCall = field(default_factory=PruneCall)  # the settings, as every front end makes them
    data: DataSource | None = None  # the user's inputs, None without
    budget: Budget | None = None  # how long what is left is trained, None for not at all; it runs from here
    # the tokens that are kept, None for all. The others are removed after the exit, before anything else.
    tokens: Tokens | None = None
    # of a cut that was made before, which is made again and trained: the contract that was agreed to there, and its new
    # numbers, which a training starts from in the place of a refit
    agreed: Contract | None = None
    compensation: Compensation | None = None
    # a `Chosen`, which is made of requests: heads, and refitted weights, of another file of the same network
    decided: Any = None

    @classmethod
    def of(cls, call: PruneCall, data: DataSource | None = None) -> Request:
        """Read the scores and import the functions that a call names: its outputs were claimed before.

        Whatever is wrong in the settings is known before data is read, which may be added later.
        """
        made = cls(loaded(call), data, budget_of(call.recover, call.time), Tokens.of(call))
        if made.heads is not None and call.has_target:
            raise UsageError("name the heads or give an amount, not both")
        if call.has_target and (call.method is not None or call.scores is not None):
            from onnxheadprune.choosing.scoring.score import scored_kinds

            scored_kinds(units_of(call, has_data=call.data is not None), call.method)
        return made

    @property
    def heads(self) -> HeadSpec | None:
        """The units to remove, of all kinds; None with a target, or where nothing is cut."""
        others = {units: getattr(self.call, units) for units in [*SCORED][1:]}
        return combined(self.call.heads, others, self.call.layers)

    @property
    def contract(self) -> Contract:
        """The agreed changes of inputs and outputs."""
        return self.agreed or Contract(self.call.cache, self.call.allow_io_change)

    @property
    def chooses(self) -> bool:
        """True if units are selected, or remaining weights are adjusted."""
        return self.call.has_target or bool(self.call.refit) or self.budget is not None


def placed(call: PruneCall, model: Path | None) -> PruneCall:
    """A call that writes to the model or folder which it replaces, and keeps the original under a name."""
    if not call.in_place:
        return call
    if model is None:
        raise UsageError("`in_place=True` replaces the file of the model, so give the model by its path")
    return replace(call, output=model, backup=call.backup or backup_path(model))


OF_FOLDERS = {"runtime": "whose configuration it updates", "exclude": "of which it leaves models out"}
OF_MODELS = {
    "exit": "make the exit of each file permanent",
    "resume": "it appears at once, so there is nothing to resume",
}


def require_for(call: PruneCall, model: object, *, is_folder: bool) -> None:
    """Check that no option for folders is given with a single model, and none for single models with a folder."""
    for name, why in (OF_MODELS if is_folder else OF_FOLDERS).items():
        if getattr(call, name) and is_folder:
            raise UsageError(f"`{name}` is for single models, and {model} is a folder: {why}")
        if getattr(call, name):
            raise UsageError(f"`{name}` requires a folder, {why}, and {model} is a file")


def ahead(call: PruneCall) -> tuple[PruneCall, str | None]:
    """The call of a dry run, which writes, validates and times nothing; and the path that it would write to."""
    fuse = "contrib" if call.fuse == "auto" else call.fuse
    would_write = None if call.output is None else str(call.output)
    return replace(call.into(None), validate=False, fuse=fuse), would_write


def readings_of(call: Any) -> list[Reading]:
    """The files that the settings of a call name, which none of its outputs may replace."""
    named = {name for name, item in declared(type(call)).items() if not item.setting.creates}
    return [
        reading
        for name in sorted(named - {"data_name"})
        for reading in named_files(f"`{name}`", getattr(call, name))
    ]


def loaded(call: Chooses) -> Chooses:
    """A call with the scores and the measure of drift that it names, read and imported once."""
    read: dict[str, Any] = {}
    if isinstance(call, Selecting) and call.scores is not None:
        from onnxheadprune.choosing.scoring.scores import scores_in

        read["scores"] = scores_in(call.scores)
    if call.drift is not None:
        read["drift"] = measure_of(call.drift)
    return replace(call, **read)


def measure_of(drift: Measure | None) -> Measure | None:
    """The measure of drift: "auto", "kl", "cosine", "module:function" or a function; None leaves it to the output."""
    if not isinstance(drift, str):
        return drift
    from onnxheadprune.data.drift import AUTO, MEASURES
    from onnxheadprune.runtime.foreign import import_function

    if drift == AUTO or drift in MEASURES:
        return drift
    if ":" not in drift:
        names = ", ".join(MEASURES)
        raise UsageError(f"a drift is measured by {AUTO}, {names} or module:function, not {drift!r}")
    return import_function(drift, "the measure")


def budget_of(budget: float | str | None, time: str | None = None) -> Budget | None:
    """Return the training budget."""
    if budget is None and time is None:
        return None
    from onnxheadprune.training.budget import Budget, parse_budget, parse_time

    if time is not None:
        return parse_time(time)
    return parse_budget(budget) if isinstance(budget, str) else Budget(epochs=budget)
