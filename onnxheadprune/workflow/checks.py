"""What must hold before anything long begins: files may be written, the provider runs here, the model is sound."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onnxheadprune.errors import InferenceError, ModelError, UsageError
from onnxheadprune.model.load import LoadedModel, check_model
from onnxheadprune.model.save import check_backup, check_target
from onnxheadprune.model.storage.claims import Making, named_files
from onnxheadprune.model.storage.names import named_data
from onnxheadprune.runtime import CPU, Provider, Session
from onnxheadprune.runtime.providers import AUTO, resolve_provider
from onnxheadprune.workflow.requests import Request


@dataclass(frozen=True)
class Places:
    """Where files go.

    Attributes:
        output: the pruned model, None to write none.
        backup: the original, where the output takes its place; None where it does not.
    """

    output: Path | None
    backup: Path | None


def free_places(model: LoadedModel, request: Request) -> Places:
    """Return where the output and the backup go.

    Raises:
        UsageError: if one cannot be written, or would replace what is read.
    """
    writing = request.writing
    if writing.external_data not in ("auto", "always", "never"):
        raise UsageError(f"external data is auto, always or never, not {writing.external_data!r}")
    output = None
    if writing.output is not None:
        in_place = writing.backup is not None
        read = [*named_files("the data", request.run.data), *named_files("the heads", request.choice.heads)]
        read += named_files(
            "the list of tokens", None if request.choice.tokens is None else request.choice.tokens.keep
        )
        output = check_target(
            writing.output, model, in_place=in_place, others=read, beside=list(_together(request))
        )
    backup = None
    if writing.backup is not None:
        backup = check_backup(writing.backup, output, model)
    return Places(output, backup)


def _together(request: Request) -> Iterator[Making]:
    """What else is made: the file with weights that has a name of its own, the backup, the checkpoint of a training."""
    writing = request.writing
    assert writing.output is not None
    target = Path(writing.output)
    if writing.data_name is not None:
        yield Making("the data file", target.with_name(named_data(target, writing.data_name)), kind="data")
    if writing.backup is not None:
        yield Making("the backup", Path(writing.backup), os.fspath(writing.backup), "new", copy_of=target)
    if request.choice.recover is not None:
        from onnxheadprune.training.checkpoint import beside, making_of

        yield making_of(beside(target))


def provider_of(request: Request) -> Provider | None:
    """Return where models are proven and fused forms measured; None where neither is done.

    One that is asked for by name must run here even if it turns out that nothing has to.

    Raises:
        ProviderError: if it does not.
    """
    asked = request.run.provider
    if request.proving.validate or request.fuse == "auto" or asked.lower() != AUTO:
        return resolve_provider(asked)
    return None


def require_sound(model: LoadedModel) -> None:
    """Check whether a model is good enough to start from.

    ONNX Runtime's optimizer writes models that `onnx.checker` does not know and ONNX Runtime runs; only
    what fails both is turned away.

    Raises:
        ModelError: with the checker's reason.
    """
    try:
        check_model(model.proto, model.name)
    except ModelError as error:
        try:
            Session(model, Provider(CPU, "check"), name=model.name)
        except InferenceError:
            raise error from None
