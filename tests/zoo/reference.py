"""What PyTorch says: outputs of the full model and of each silenced one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tests.zoo.case import Case, Feed, projection_weight, silence
from tests.zoo.heads import HeadSet

Floats = NDArray[np.float32]
Arrays = dict[str, NDArray[np.generic]]


class BadCaseError(Exception):
    """The case describes its model wrongly, or its heads do not matter enough to test with."""


def run(model: nn.Module, case: Case, feed: Feed) -> tuple[torch.Tensor, ...]:
    """Returns the outputs of ``model``."""
    with torch.no_grad():
        # Clones: a cache may be updated in place.
        result = model(*(feed[name].clone() for name in case.inputs))
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)


def outputs(model: nn.Module, case: Case, feed: Feed) -> dict[str, Floats]:
    """Returns the named outputs of ``model``, as float32."""
    values = run(model, case, feed)
    if len(values) != len(case.outputs):
        raise BadCaseError(f"{len(values)} outputs, but {len(case.outputs)} names")
    return {n: v.float().numpy() for n, v in zip(case.outputs, values, strict=True)}


def check_order(model: nn.Module, case: Case) -> None:
    """Checks that the projections run as often, and in the order, that the case says.

    Raises:
        BadCaseError: They do not.
    """
    ran: list[str] = []
    hooks = [
        model.get_submodule(path).register_forward_hook(lambda *_, path=path: ran.append(path))
        for path in {p.module_path for p in case.projections}
    ]
    outputs(model, case, case.feeds[0])
    for hook in hooks:
        hook.remove()
    expected = [p.module_path for p in case.projections]
    if ran != expected:
        raise BadCaseError(f"projections ran as {ran}, not {expected}")
    for p in case.projections:
        width = projection_weight(model.get_submodule(p.module_path)).shape[1]
        if width != p.num_heads * p.head_size:
            raise BadCaseError(f"{p.module_path} reads {width} columns, not {p.num_heads}*{p.head_size}")


def error(got: Mapping[str, NDArray[np.generic]], want: Mapping[str, Floats]) -> float:
    """Returns the largest error of any output, relative to that output's largest magnitude."""
    worst = 0.0
    for name, expected in want.items():
        value = got[name].astype(np.float32)
        if value.shape != expected.shape:
            raise ValueError(f"{name} has shape {value.shape}, not {expected.shape}")
        scale = max(float(np.abs(expected).max()), 1e-6)
        difference = float(np.abs(value - expected).max()) / scale
        worst = max(worst, difference if np.isfinite(difference) else float("inf"))
    return worst


def make(model: nn.Module, case: Case, sets: Mapping[str, HeadSet]) -> tuple[Arrays, dict[str, float]]:
    """Computes the contents of ``reference.npz``.

    Returns:
        The arrays by name, and per head set how far it moves the outputs (relative to their scale,
        the smaller of the feeds).
    """
    arrays: Arrays = {}
    moved: dict[str, float] = {}
    for i, p in enumerate(case.projections):
        weight = projection_weight(model.get_submodule(p.module_path))
        arrays[f"weight/{i}"] = weight.detach().numpy().copy()
    full = []
    for k, feed in enumerate(case.feeds):
        arrays |= {f"feed{k}/{name}": feed[name].numpy() for name in case.inputs}
        full.append(outputs(model, case, feed))
        arrays |= {f"full/feed{k}/{name}": value for name, value in full[k].items()}
    for j, (label, heads) in enumerate(sets.items()):
        silenced = silence(model, case.projections, heads)
        distances = []
        for k, feed in enumerate(case.feeds):
            got = outputs(silenced, case, feed)
            arrays |= {f"set{j}/feed{k}/{name}": value for name, value in got.items()}
            distances.append(error(got, full[k]))
        moved[label] = min(distances)
    return arrays, moved
