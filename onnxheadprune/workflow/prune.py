"""The Python API of one cut: the commands as functions that never print.

Models are given as a path, a `ModelProto`, a `gs.Graph` or an `onnx_ir.Model`; they are never changed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnx import ModelProto

from onnxheadprune.attention.head_specs import HeadSpec
from onnxheadprune.attention.io_changes import Cache, Contract
from onnxheadprune.attention.planning import planned_on
from onnxheadprune.data.sources import data_for
from onnxheadprune.edit.local_functions import carried_out
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.model.load import ModelLike, open_structure
from onnxheadprune.model.storage.layout import ExternalData
from onnxheadprune.model.storage.reading import hydrated
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.runtime.providers import AUTO
from onnxheadprune.settings.cutting import Cut
from onnxheadprune.settings.inputs import Running
from onnxheadprune.settings.words import documented
from onnxheadprune.settings.writing import Checking, Target
from onnxheadprune.workflow.pipeline import carried_through, seal_refits
from onnxheadprune.workflow.requests import Choice, Proving, Request, Run, Tokens, Writing
from onnxheadprune.workflow.result import PruneResult

if TYPE_CHECKING:
    from onnxheadprune.choosing.wishes import Wish
    from onnxheadprune.data.drift import Measure
    from onnxheadprune.data.sources import Data
    from onnxheadprune.fusion.result import FuseMode
    from onnxheadprune.training.budget import Budget


def apply_plan(plan: PrunePlan, model: ModelLike) -> ModelProto:
    """A copy of `model` after the plan was applied; everything outside the plan is bit-identical.

    Raises:
        RefusedError: if the plan was made for a model of another structure, or of other exits.
        ModelError: if the model cannot be read.
    """
    loaded = planned_on(plan, open_structure(model))
    pruned = loaded.changed(carried_out(plan, loaded))
    seal_refits(pruned, plan)
    return hydrated(pruned.proto, pruned.sources)


@documented(Cut, Running, Target, Checking)
def prune(  # noqa: D417 the decorator documents the settings
    model: ModelLike,
    heads: HeadSpec | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    exit: int | None = None,  # noqa: A002 the option's own name; nothing here leaves the interpreter
    validate: bool = True,
    data: Data | None = None,
    provider: str = AUTO,
    seed: int = 0,
    cache: Cache = "narrow",
    allow_io_change: bool = False,
    vocab: str | os.PathLike[str] | Sequence[int] | None = None,
    vocab_size: int | None = None,
    token_ids: str | None = None,
    token_logits: str | None = None,
    accept_inconclusive: bool = False,
    external_data: ExternalData = "auto",
    backup: str | os.PathLike[str] | None = None,
    fuse: FuseMode = "none",
    wish: Wish | None = None,
    refit: bool | None = None,
    effect: Measure | None = None,
    recover: Budget | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> PruneResult:
    """Remove heads, prove the result equal to the original with silenced heads, then write it.

    Args:
        model: the model to prune.
        heads: a head spec ("0:1,3 5:0-3"), a mapping `{0: [1, 3]}` or the path of a JSON file; None with a
            `wish`, for an exit alone, or to fuse only.
        output: where to write; None writes nothing.
        validate: compare with the masked reference first; False is noted in the model's metadata.
        data: the user's inputs for the validation; see `Inputs` for the forms.
        vocab: the tokens to keep: their ids, or a file with tokens or ids, one a line.
        backup: allows `output` to be the model itself, whose file is kept under this name.
        fuse: rewrite attention into fused operators: ONNX Runtime's ("contrib"), the standard one ("onnx"),
            or whatever is fastest here ("auto"). With no heads to remove, this alone is done.
        wish: how many heads are to go, in place of `heads`; which ones is then chosen here.
        effect: the measure of drift, of a `wish` and of the validation: "kl", "cosine" or your own function; None goes
            by the kind of output.
        recover: how long what is left is trained on `data` to give what the original gives, after the refit; a
            twentieth of the data is set aside for that.
        resume: go on with a training that was interrupted, from the file beside `output`.
        {settings}
        progress: told what is being done, how much of it is done, and of how much (0: unknown).

    Raises:
        UsageError: if a path, the spec or the data is wrong. Nothing is written.
        ModelError: if the model cannot be read, or is not valid.
        RefusedError: if the heads cannot be removed exactly, or there is no such exit.
        ProviderError: if the asked-for provider does not run here.
        ValidationFailedError: if the pruned model is not shown to be exact. Nothing is written.
    """
    request = Request(
        Choice(
            heads,
            wish,
            refit,
            effect,
            recover,
            resume,
            exit=exit,
            tokens=Tokens.of(vocab, vocab_size, token_ids, token_logits),
        ),
        Contract(cache, allow_io_change),
        fuse,
        Run(provider, seed, data_for(model, data, provider, seed)),
        Proving(validate, accept_inconclusive, "accept_inconclusive=True"),
        Writing(output, external_data, backup),
    )
    return carried_through(model, request, progress)
