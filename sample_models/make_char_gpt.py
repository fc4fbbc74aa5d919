"""Trains the character sample and exports it, with its held-out and its calibration text.

Writes `char_gpt.onnx`, `char_gpt_test.npz`, `char_gpt_calibration.npz` and `char_gpt.json`.
"""

from __future__ import annotations

import math
import platform
from pathlib import Path

import click
import numpy as np
import onnxruntime as ort
import torch
from char_gpt_model import CONTEXT, VOCABULARY, CharGPT
from char_gpt_text import Ids, streams
from onnx_export import export, name_weights
from torch.nn import functional
from training import begin, exported_logits, output_option, step, write_facts

SEED = 0
STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 1800, 32, 3e-3, 0.05
TEST_WINDOWS, CALIBRATION_WINDOWS = 384, 256
TRACED_BATCH, TRACED_SEQUENCE = 3, 41
LARGEST_PERPLEXITY = 6.0

Windows = tuple[Ids, Ids]


def windows(stream: Ids, starts: Ids) -> Windows:
    """Gives ids and the characters that follow them, both [windows, CONTEXT]."""
    at = starts[:, None] + np.arange(CONTEXT)
    return stream[at], stream[at + 1]


def spread(stream: Ids, count: int) -> Windows:
    """Gives windows evenly spread over a stream, none overlapping."""
    if len(stream) < count * (CONTEXT + 1):
        raise click.ClickException(f"the text is too short for {count} windows.")
    return windows(stream, np.linspace(0, len(stream) - CONTEXT - 1, count).astype(np.int64))


def train(stream: Ids) -> CharGPT:
    """Trains with AdamW on windows drawn at random; the held-out text plays no part in it."""
    torch.manual_seed(SEED)
    random = np.random.default_rng(SEED)
    model = CharGPT().train()
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    rest = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=STEPS, pct_start=0.1, cycle_momentum=False
    )
    recent: list[float] = []
    for number in range(STEPS):
        starts = random.integers(0, len(stream) - CONTEXT, BATCH)
        ids, labels = (torch.from_numpy(part) for part in windows(stream, starts))
        loss = functional.cross_entropy(model(ids).flatten(0, 1), labels.flatten())
        step(model, loss, optimizer, schedule)
        recent.append(loss.item())
        if number % 100 == 99:
            click.echo(f"step {number + 1:4}: perplexity {math.exp(np.mean(recent[-100:])):.2f} in training")
    return model.eval()


def evaluate(path: Path, model: CharGPT, test: Windows) -> float:
    """Gives the perplexity of the exported file; stops where it is not what PyTorch computes."""
    ids, labels = test
    logits = exported_logits(path, model, "input_ids", torch.from_numpy(ids))
    rows = torch.from_numpy(logits).double().flatten(0, 1)
    return math.exp(functional.cross_entropy(rows, torch.from_numpy(labels).flatten()).item())


@click.command()
@output_option
def main(output: Path) -> None:
    """Trains, exports and measures the character sample (about ten minutes on one slow core)."""
    begin(output)
    training, held_out = streams()
    test, calibration = spread(held_out, TEST_WINDOWS), spread(training, CALIBRATION_WINDOWS)
    click.echo(f"{len(training)} characters to train on, {len(held_out)} held out")
    model, path = train(training), output / "char_gpt.onnx"
    # Traced with another batch size and length than any the model or the tests use.
    feed = {"input_ids": torch.from_numpy(test[0][:TRACED_BATCH, :TRACED_SEQUENCE])}
    export(model, feed, "logits", {0: "batch", 1: "sequence"}, "torchscript", path)
    name_weights(path)
    perplexity = evaluate(path, model, test)
    for name, (ids, labels) in {"test": test, "calibration": calibration}.items():
        np.savez_compressed(output / f"char_gpt_{name}.npz", input_ids=ids, labels=labels)
    facts = {
        "perplexity": perplexity,
        "test_characters": test[1].size,
        "training_characters": len(training),
        "vocabulary": VOCABULARY,
        "seed": SEED,
        "steps": STEPS,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": ort.__version__,
    }
    write_facts(output / "char_gpt.json", facts)
    click.echo(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB, held-out perplexity {perplexity:.2f}")
    if not perplexity <= LARGEST_PERPLEXITY:
        raise click.ClickException(f"the perplexity is above {LARGEST_PERPLEXITY}.")


if __name__ == "__main__":
    main()
