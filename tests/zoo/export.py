"""The exporters: one function per way of turning a module into ``model.onnx``."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.zoo.case import Case

Exporter = Callable[[nn.Module, Case, Path], None]


def _example(model: nn.Module, case: Case, half: bool) -> tuple[nn.Module, tuple[Any, ...]]:
    """Returns what to export and the tensors to export it with, in float16 if ``half``."""
    # Copies: Swin and the Conformer keep tensors that TorchScript's tracer made, a cache may be
    # updated in place, and both would spoil the next export.
    model = copy.deepcopy(model)
    tensors = [case.feeds[0][name].clone() for name in case.inputs]
    if half:
        model = model.half()
        tensors = [t.half() if t.is_floating_point() else t for t in tensors]
    return model, tuple(tensors)


def _torchscript(
    model: nn.Module, case: Case, path: Path, *, opset: int, half: bool = False, **options: Any
) -> None:
    model, example = _example(model, case, half)
    if getattr(model, "scripted", False):
        # A trace would keep one way through the model; compiled, it keeps its branches.
        # Of a class that was compiled before in this process, exporters name no modules.
        torch._C._jit_clear_class_registry()
        torch.jit._state._clear_class_state()
        torch.jit._recursive.concrete_type_store.type_store.clear()
        model = torch.jit.script(model)
    torch.onnx.export(
        model,
        example,
        path,
        input_names=list(case.inputs),
        output_names=list(case.outputs),
        dynamic_axes={name: dict(axes) for name, axes in case.dynamic_axes.items()},
        opset_version=opset,
        dynamo=False,
        **options,
    )


def _dynamo(
    model: nn.Module, case: Case, path: Path, *, opset: int, half: bool = False, **options: Any
) -> None:
    parameters = inspect.signature(model.forward).parameters.values()
    model, example = _example(model, case, half)
    shapes = tuple(
        dict.fromkeys(case.dynamic_axes.get(name, {}), torch.export.Dim.AUTO) for name in case.inputs
    )
    # For a ``forward(self, *inputs)`` torch.export wants that nesting repeated here.
    nested = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    torch.onnx.export(
        model,
        example,
        path,
        input_names=list(case.inputs),
        output_names=list(case.outputs),
        dynamic_shapes=(shapes,) if nested else shapes,
        opset_version=opset,
        dynamo=True,
        external_data=False,
        verbose=False,
        **options,
    )


EXPORTERS: dict[str, Exporter] = {
    "ts17": partial(_torchscript, opset=17),
    "dyn18": partial(_dynamo, opset=18),
    "ts14": partial(_torchscript, opset=14),
    "dyn23": partial(_dynamo, opset=23),
    "dyn18raw": partial(_dynamo, opset=18, optimize=False),
    "ts17half": partial(_torchscript, opset=17, half=True),
    "dyn18half": partial(_dynamo, opset=18, half=True),
    "ts17raw": partial(_torchscript, opset=17, do_constant_folding=False, keep_initializers_as_inputs=True),
}
"""``ts``: TorchScript tracing, ``dyn``: torch.export; the number is the opset. ``raw`` switches the
exporter's own optimisations off (and lists initializers as graph inputs for ``ts``); ``half`` is
the model in float16, as torch holds it."""
