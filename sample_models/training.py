"""What the two trained samples share: repeatable runs, one step of training, the check of what was exported."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch

TOLERANCE = 1e-5
"""Largest error of an exported model, relative to the largest output that PyTorch gives."""

output_option = click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(__file__).parent,
    help="Folder to write to; by default the one of this script.",
)


def begin(output: Path) -> None:
    """Makes the folder, and sums come out the same everywhere; more threads gain little with tensors this small."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    output.mkdir(parents=True, exist_ok=True)


def step(
    model: torch.nn.Module,
    loss: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """One step of training, with gradients clipped to a norm of 1."""
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()


def exported_logits(
    path: Path, model: torch.nn.Module, name: str, batch: torch.Tensor
) -> npt.NDArray[np.float32]:
    """What an exported file gives.

    Args:
        path: the file.
        model: what was exported.
        name: of its only input.
        batch: the values of that input.

    Raises:
        ClickException: if that is not what PyTorch computes.
    """
    onnx.checker.check_model(path, full_check=True)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {name: batch.numpy()})
    with torch.no_grad():
        expected = model(batch).numpy()
    error = float(np.abs(logits - expected).max() / np.abs(expected).max())
    if not error <= TOLERANCE:
        raise click.ClickException(f"{path.name} differs from PyTorch by {error:.1e}.")
    return np.asarray(logits)


def write_facts(path: Path, facts: dict[str, object]) -> None:
    """Writes what a run was and gave, as JSON."""
    path.write_text(json.dumps(facts, indent=2) + "\n")
