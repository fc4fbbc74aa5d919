"""A mixture of experts on characters: trained, exported, with the text that `quality.py` chooses and judges on.

    python benchmarks/mixture.py mixture.onnx [--steps 1800]
    python benchmarks/quality.py mixture.onnx "--ratio 0.5 --units experts --method reap --uniform" ...

A decoder with 8 experts in each of 4 layers, 2 of them chosen for each token. Beside the model lie 256 windows of its
training text (`mixture_calibration.npz`) and 384 of text that it has not seen (`mixture_test.npz`).
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import click
import numpy as np
import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1] / "sample_models"))
from char_gpt_model import HIDDEN, INIT_STD, Block, CharGPT
from char_gpt_text import streams
from make_char_gpt import spread, windows
from onnx_export import export
from training import begin, exported_logits, step

EXPERTS, CHOSEN, WIDTH = 8, 2, 128
BATCH, CONTEXT, LEARNING_RATE, BALANCE = 16, 96, 3e-3, 0.001


class Mixture(nn.Module):
    """Experts that are stored in one tensor and weighed by the softmax of the chosen scores."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, HIDDEN, WIDTH) / math.sqrt(HIDDEN))
        self.down = nn.Parameter(torch.randn(EXPERTS, WIDTH, HIDDEN) * INIT_STD)
        self.uneven = torch.zeros(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [batch, sequence, hidden] to the same shape."""
        tokens = x.reshape(-1, HIDDEN)
        scores = self.router(tokens)
        best, chosen = scores.topk(CHOSEN, dim=-1)
        shares = torch.zeros_like(scores).scatter(1, chosen, best.softmax(-1))
        if not self.training:
            outputs = functional.gelu(tokens @ self.up) @ self.down
            return (outputs * shares.t().unsqueeze(-1)).sum(0).reshape(x.shape)
        # The load of Switch Transformers (2101.03961): how often times how likely, least where all are alike.
        load = (shares > 0).float().mean(0) * scores.softmax(-1).mean(0)
        self.uneven = EXPERTS * load.sum() / CHOSEN
        total = torch.zeros_like(tokens)
        for expert in range(EXPERTS):
            (own,) = (shares[:, expert] > 0).nonzero(as_tuple=True)
            output = functional.gelu(tokens[own] @ self.up[expert]) @ self.down[expert]
            total = total.index_add(0, own, output * shares[own, expert, None])
        return total.reshape(x.shape)


class MixtureBlock(Block):
    """A pre-LN transformer block with experts."""

    def __init__(self) -> None:
        super().__init__()
        del self.fc1, self.fc2
        self.experts = Mixture()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [batch, sequence, hidden] to the same shape."""
        x = x + self.attn(self.norm1(x))
        update: torch.Tensor = self.experts(self.norm2(x))
        return x + update


def train(steps: int) -> CharGPT:
    """Trains with AdamW on windows drawn at random."""
    stream, _ = streams()
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model = CharGPT()
    model.blocks = nn.ModuleList(MixtureBlock() for _ in model.blocks)
    mixtures = [module for module in model.modules() if isinstance(module, Mixture)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    recent: list[float] = []
    for number in range(steps):
        starts = random.integers(0, len(stream) - CONTEXT, BATCH)
        ids, labels = (torch.from_numpy(part) for part in windows(stream, starts))
        loss = functional.cross_entropy(model(ids).flatten(0, 1), labels.flatten())
        recent.append(loss.item())
        step(model, loss + BALANCE * sum(item.uneven for item in mixtures), optimizer, schedule)
        if number % 50 == 49:
            click.echo(f"step {number + 1}: perplexity {math.exp(np.mean(recent[-50:])):.2f}", err=True)
    return model.eval()


@click.command(help=__doc__)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--steps", default=1800, show_default=True, help="Of the training.")
def main(path: Path, steps: int) -> None:
    """Write the model and its data."""
    training, held_out = streams()
    (ids, labels), (seen, _) = spread(held_out, 384), spread(training, 256)
    begin(path.parent)
    trained = train(steps)
    feed = {"input_ids": torch.from_numpy(ids[:3, :41])}
    export(trained, feed, "logits", {0: "batch", 1: "sequence"}, "torchscript", path)
    exported_logits(path, trained, "input_ids", torch.from_numpy(ids[:8]))
    np.savez(path.with_name(f"{path.stem}_calibration.npz"), input_ids=seen)
    np.savez(path.with_name(f"{path.stem}_test.npz"), input_ids=ids, labels=labels)


if __name__ == "__main__":
    main()
