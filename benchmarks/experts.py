"""Held-out perplexity of a mixture of experts that loses half of them, by each way to choose these.

    python benchmarks/experts.py [--model mixture.onnx] [--steps 1800] [-o results.json]

Trains a decoder on characters with 8 experts in each of 4 layers, 2 of them chosen for each token, and exports it
(--model keeps it, and takes it from there the next time). Experts are chosen and weights refitted on text of the
training; perplexity is that of text that neither training nor pruning saw. Every cut is proved.
"""

from __future__ import annotations

import json
import math
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1] / "sample_models"))
from char_gpt_model import HIDDEN, INIT_STD, Block, CharGPT
from char_gpt_text import streams
from make_char_gpt import Windows, spread, windows
from onnx_export import export
from training import begin, exported_logits, step

import onnxheadprune as ohp

EXPERTS, CHOSEN, WIDTH = 8, 2, 128
BATCH, CONTEXT, LEARNING_RATE, BALANCE = 16, 96, 3e-3, 0.001
SEEDS = 5
METHODS = ("reap", "ablation")
ONLY_EXPERTS = frozenset({"experts"})


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


def perplexity(model: onnx.ModelProto, test: Windows) -> float:
    """Perplexity on windows of text."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    losses = []
    for ids, labels in zip(*(np.split(part, 16) for part in test), strict=True):
        (logits,) = session.run(["logits"], {"input_ids": ids})
        rows = torch.from_numpy(logits).double().flatten(0, 1)
        losses.append(functional.cross_entropy(rows, torch.from_numpy(labels).flatten()).item())
    return math.exp(np.mean(losses))


def cut(path: Path, data: Mapping[str, Any], test: Windows, refit: bool, **way: Any) -> dict[str, Any]:
    """Half of the experts removed in one way."""
    began = time.process_time()
    made = ohp.prune(path, data=dict(data), provider="cpu", refit=refit, **way)
    assert made.validation is not None
    return {
        "perplexity": round(perplexity(made.model, test), 3),
        "spec": made.plan.spec,
        "seconds": round(time.process_time() - began, 1),
        "verdict": made.validation.verdict,
    }


def drawn(path: Path, data: Mapping[str, Any], test: Windows, refit: bool) -> dict[str, Any]:
    """The mean of several random halves of every layer."""
    found = []
    for seed in range(SEEDS):
        random = np.random.default_rng(seed)
        spec = {
            f"moe.{number}": sorted(random.choice(EXPERTS, EXPERTS // 2, replace=False).tolist())
            for number in range(len(ohp.inspect(path).of("experts")))
        }
        found.append(cut(path, data, test, refit, heads=spec))
    values = [item["perplexity"] for item in found]
    return {
        "perplexity": round(math.exp(np.mean(np.log(values))), 3),
        "least": min(values),
        "most": max(values),
        "verdict": " ".join(sorted({item["verdict"] for item in found})),
    }


@click.command()
@click.option("--model", type=click.Path(path_type=Path), help="Where the trained model is kept.")
@click.option("--steps", default=1800, show_default=True, help="Of the training.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write the figures.")
def main(model: Path | None, steps: int, output: Path | None) -> None:
    """Print one JSON document with a row for each way to choose."""
    with tempfile.TemporaryDirectory() as folder:
        path = model or Path(folder, "mixture.onnx")
        training, held_out = streams()
        test, (ids, _) = spread(held_out, 384), spread(training, 256)
        if not path.exists():
            begin(path.parent)
            trained = train(steps)
            feed = {"input_ids": torch.from_numpy(test[0][:3, :41])}
            export(trained, feed, "logits", {0: "batch", 1: "sequence"}, "torchscript", path)
            exported_logits(path, trained, "input_ids", torch.from_numpy(test[0][:8]))
        rows: dict[str, Any] = {"original": {"perplexity": round(perplexity(onnx.load(path), test), 3)}}
        for refit in (False, True):
            told = ", refitted" if refit else ""
            data = {"input_ids": ids}
            rows[f"random{told}"] = drawn(path, data, test, refit)
            for method in METHODS:
                for uniform, name in ((True, "as many of every layer"), (False, "drift across layers")):
                    target = {"ratio": 0.5, "units": ONLY_EXPERTS, "method": method, "uniform": uniform}
                    rows[f"{method}, {name}{told}"] = cut(path, data, test, refit, **target)
                    click.echo(f"{method}, {name}{told}: {rows[f'{method}, {name}{told}']}", err=True)
        size = path.stat().st_size
    found = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, onnxruntime {onnxruntime.__version__}, torch {torch.__version__}",
        "bytes": size,
        "rows": rows,
    }
    text = json.dumps(found, indent=1)
    click.echo(text)
    if output is not None:
        output.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
