"""Decoders on characters: trained, exported, with the text that `quality.py` chooses and judges on.

    python benchmarks/characters.py mixture mixture.onnx [--steps 1800]
    python benchmarks/quality.py mixture.onnx "--ratio 0.5 --units experts --method reap --uniform" ...
    python benchmarks/characters.py grouped grouped.onnx [--steps 1800]
    python benchmarks/quality.py grouped.onnx "--ratio 0.5" "--ratio 0.25" ...

Both have 4 layers: *mixture* 8 experts in each, 2 of them chosen for each token; *grouped* 16 query heads that share 4
key/value heads. Beside a model lie 256 windows of its training text (`NAME_calibration.npz`) and 384 of text that it
has not seen (`NAME_test.npz`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1] / "sample_models"))
from char_gpt_model import CONTEXT as LONGEST
from char_gpt_model import HIDDEN, INIT_STD, Block, CharGPT
from char_gpt_text import streams
from make_char_gpt import spread, windows
from onnx_export import export
from training import begin, exported_logits, step

EXPERTS, CHOSEN, WIDTH = 8, 2, 128
QUERY_HEADS, KV_HEADS, HEAD_SIZE = 16, 4, 16
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


class GroupedAttention(nn.Module):
    """Causal self-attention whose query heads share key/value heads, wider than the residual stream."""

    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        width = QUERY_HEADS * HEAD_SIZE
        self.query, self.proj = nn.Linear(HIDDEN, width), nn.Linear(width, HIDDEN)
        self.key, self.value = (nn.Linear(HIDDEN, KV_HEADS * HEAD_SIZE) for _ in range(2))
        self.register_buffer("mask", torch.ones(LONGEST, LONGEST, dtype=torch.bool).tril(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [batch, sequence, hidden] to the same shape."""
        batch, sequence = x.shape[:2]
        shared = (batch, sequence, KV_HEADS, 1, HEAD_SIZE)
        spread = (batch, sequence, KV_HEADS, QUERY_HEADS // KV_HEADS, HEAD_SIZE)
        split = (batch, sequence, QUERY_HEADS, HEAD_SIZE)
        query = self.query(x).reshape(split).transpose(1, 2)
        key = self.key(x).reshape(shared).expand(spread).reshape(split).transpose(1, 2)
        value = self.value(x).reshape(shared).expand(spread).reshape(split).transpose(1, 2)
        scores = (query * HEAD_SIZE**-0.5) @ key.transpose(-2, -1)
        visible = self.mask[:sequence, :sequence]
        context = torch.where(visible, scores, float("-inf")).softmax(-1) @ value
        joined = context.transpose(1, 2).reshape(batch, sequence, QUERY_HEADS * HEAD_SIZE)
        projected: torch.Tensor = self.proj(joined)
        return projected


class GroupedBlock(Block):
    """A pre-LN transformer block with grouped queries."""

    def __init__(self) -> None:
        super().__init__()
        self.attn: nn.Module = GroupedAttention()


BLOCKS: dict[str, Callable[[], nn.Module]] = {"mixture": MixtureBlock, "grouped": GroupedBlock}


def train(block: Callable[[], nn.Module], steps: int) -> CharGPT:
    """Trains with AdamW on windows drawn at random."""
    stream, _ = streams()
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model = CharGPT()
    model.blocks = nn.ModuleList(block() for _ in model.blocks)
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
@click.argument("kind", type=click.Choice(list(BLOCKS)))
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--steps", default=1800, show_default=True, help="Of the training.")
def main(kind: str, path: Path, steps: int) -> None:
    """Write the model and its data."""
    training, held_out = streams()
    (ids, labels), (seen, _) = spread(held_out, 384), spread(training, 256)
    begin(path.parent)
    trained = train(BLOCKS[kind], steps)
    feed = {"input_ids": torch.from_numpy(ids[:3, :41])}
    export(trained, feed, "logits", {0: "batch", 1: "sequence"}, "torchscript", path)
    exported_logits(path, trained, "input_ids", torch.from_numpy(ids[:8]))
    np.savez(path.with_name(f"{path.stem}_calibration.npz"), input_ids=seen)
    np.savez(path.with_name(f"{path.stem}_test.npz"), input_ids=ids, labels=labels)


if __name__ == "__main__":
    main()
