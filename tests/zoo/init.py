"""Random weights under which every head matters.

The libraries' own initialisation (std 0.02, zero biases, layer scales of 1e-5) makes tiny models
whose heads move the outputs by less than rounding does: an error in pruning would not show.
"""

from __future__ import annotations

import math

import torch
from torch import nn


def spread(model: nn.Module) -> nn.Module:
    """Redraws every parameter and running statistic of ``model`` in place; returns it in eval."""
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.is_floating_point() and parameter.numel():
                    _draw(module, name, parameter)
            mean, var = getattr(module, "running_mean", None), getattr(module, "running_var", None)
            if isinstance(mean, torch.Tensor) and isinstance(var, torch.Tensor):
                mean.normal_(0.0, 0.2)
                var.uniform_(0.5, 1.5)
    return model.eval()


def _draw(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    if parameter.dim() < 2:
        if name == "weight" and parameter.dim() == 1:  # a normalisation's scale
            parameter.normal_(1.0, 0.2)
        elif "bias" in name:
            parameter.normal_(0.0, 0.2)
        else:  # layer scales, temperatures, attention sinks
            parameter.copy_(torch.empty_like(parameter).normal_(0.7, 0.2))
        return
    parameter.normal_(0.0, _std(module, parameter))


def _std(module: nn.Module, parameter: nn.Parameter) -> float:
    if isinstance(module, nn.Embedding):
        return 0.5
    if type(module).__name__ == "Conv1D":  # transformers' Linear with a transposed weight
        return 1.0 / math.sqrt(parameter.shape[0])
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.MultiheadAttention):
        return 1.0 / math.sqrt(parameter[0].numel())
    return min(0.5, 1.0 / math.sqrt(parameter.shape[-1]))  # tables, tokens, stacked experts
