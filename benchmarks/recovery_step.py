"""The time of a training step on a device, and the error of its gradients there.

    python benchmarks/recovery_step.py model.onnx --heads "0:0-5" [--provider cuda] [--batch 16] [--seq 128] [--torch]

With `--torch` whole steps (original, gradients, optimizer) take turns with those of a PyTorch encoder of the same
widths.
`cuda.py` shows the same for BERT-base. Gradients are compared with those of the CPU provider.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click
import numpy as np
import onnx
from onnx import ModelProto

from onnxheadprune import inspect, prune
from onnxheadprune.data.calibration import Calibration, calibration_data
from onnxheadprune.liveness.interface import AS_BEFORE
from onnxheadprune.model.graph.main_output import require_main_output
from onnxheadprune.model.storage.reading import hydrated
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Array, Provider
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.providers import resolve_provider
from onnxheadprune.training.optimizer import Adam
from onnxheadprune.training.recover import Subject, ready

NEAR = 0.02
"""How far gradients of another device may be from the CPU's, both in float32: sums are made in another order. Biases of
keys, whose gradients are nothing but rounding, are 0.013 of it on MiniLM."""


def tokens(batch: int, length: int, vocabulary: int = 1000) -> list[Feed]:
    """Two batches of random ids, without padding."""
    random = np.random.default_rng(0)
    ids = [random.integers(0, vocabulary, (batch, length)) for _ in range(2)]
    ones = np.ones_like(ids[0])
    return [{"input_ids": one, "attention_mask": ones, "token_type_ids": 0 * ones} for one in ids]


def subject_of(
    path: Path, heads: str | Mapping[int, list[int]], feeds: list[Feed]
) -> tuple[Subject, Calibration]:
    """A cut of a model, and data for it: of each feed what the model has as an input."""
    made = prune(path, heads=heads, provider="cpu", validate=False)
    view = view_of(onnx.load(path))
    given = {info.name for info in view.main.proto.input}
    data = calibration_data([{n: a for n, a in feed.items() if n in given} for feed in feeds], view)
    pruned = hydrated(made.pruned.proto, made.pruned.sources)
    return Subject(view, require_main_output(view), pruned, made.plan, AS_BEFORE, {}), data


def milliseconds(run: Callable[[], object], repeats: int) -> float:
    """The median of a few runs, after one that does not count."""
    run()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return 1000 * median(found)


@dataclass(frozen=True)
class Step:
    """A training step on a device.

    Attributes:
        targets: milliseconds of the original and of what is learned from it.
        milliseconds: of gradients and optimizer.
        apart: relative error of the gradients, beside those of the CPU provider.
    """

    targets: float
    milliseconds: float
    apart: float


def recovery_step(
    path: Path,
    heads: str | Mapping[int, list[int]],
    provider: Provider,
    size: tuple[int, int] = (16, 128),
    repeats: int = 10,
) -> Step:
    """The times of the original's forward pass and of a training step, with the error of its gradients.

    Args:
        path: the original.
        heads: what the student lacks.
        provider: where to run.
        size: samples and tokens of a batch.
        repeats: runs that are timed.
    """
    subject, data = subject_of(path, heads, tokens(*size))
    made = ready(subject, data, provider)
    feed = data.feeds[0]
    full = {**feed, **made.teacher.targets(feed)}
    aiming = milliseconds(lambda: made.teacher.targets(feed), repeats)
    _, expected = ready(subject, data, Provider(CPU, "to compare with")).student.slope(full)
    _, found = made.student.slope(full)
    back = milliseconds(lambda: made.student.slope(full), repeats)
    # At a rate of nothing the weights stay those that gradients are compared at.
    adam = Adam(made.student.masters)
    update = milliseconds(lambda: adam.step(found, 0.0), repeats)
    return Step(aiming, back + update, distance(found, expected))


def distance(found: Sequence[Array], expected: Sequence[Array]) -> float:
    """The relative error of gradients: root mean square over tensors, weighted by their sizes."""
    total = count = 0.0
    for mine, other in zip(found, expected, strict=True):
        length = np.linalg.norm(other.astype(np.float64))
        apart = np.linalg.norm(mine.astype(np.float64) - other)
        share = min(float(apart / length), 1.0) if length else float(apart > 0)
        total += mine.size * share**2
        count += mine.size
    return float(np.sqrt(total / max(count, 1.0)))


Shape = tuple[int, int, int]
"""Heads, their size, and neurons of a layer."""


def shapes_of(model: Path | ModelProto) -> list[Shape]:
    """The layers of an encoder."""
    sites = inspect(model)
    pairs = zip(sites, sites.neurons, strict=True)
    return [(site.num_heads, site.v_head_size, block.num_units) for site, block in pairs]


def torch_step(whole: Sequence[Shape], pruned: Sequence[Shape], size: tuple[int, int]) -> Callable[[], None]:
    """A step of PyTorch: an encoder of BERT's kind learns each layer's output from one with all heads.

    Args:
        whole: the layers of the original, whose heads are as wide together as the stream.
        pruned: those of what learns.
        size: samples and tokens of a batch.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    hidden = whole[0][0] * whole[0][1]

    class Layer(nn.Module):
        def __init__(self, heads: int, head: int, inner: int) -> None:
            super().__init__()
            width, self.head = heads * head, head
            self.given = nn.ModuleList(nn.Linear(hidden, width) for _ in range(3))
            self.out = nn.Linear(width, hidden)
            self.up, self.down = nn.Linear(hidden, inner), nn.Linear(inner, hidden)
            self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shape = (*x.shape[:2], -1, self.head)
            q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in self.given)
            context = torch.softmax(q @ k.transpose(-1, -2) / self.head**0.5, -1) @ v
            x = self.norms[0](x + self.out(context.transpose(1, 2).flatten(2)))
            return self.norms[1](x + self.down(functional.gelu(self.up(x))))

    def outputs(layers: nn.ModuleList) -> list[torch.Tensor]:
        found = [given]
        for layer in layers:
            found.append(layer(found[-1]))
        return found[1:]

    given = torch.randn(*size, hidden)
    original, student = (nn.ModuleList(Layer(*shape) for shape in layers) for layers in (whole, pruned))
    optimizer = torch.optim.AdamW(student.parameters(), 1e-4, weight_decay=0.0)

    def step() -> None:
        with torch.no_grad():
            wanted = outputs(original)
        loss = sum(((one - other) ** 2).mean() for one, other in zip(outputs(student), wanted, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def beside_torch(path: Path, heads: str, provider: Provider, size: tuple[int, int], repeats: int) -> str:
    """Whole steps here and in PyTorch, in turns."""
    subject, data = subject_of(path, heads, tokens(*size))
    made = ready(subject, data, provider)
    feed, student = data.feeds[0], made.student
    adam = Adam(student.masters)

    def ours() -> None:
        _, gradients = student.slope({**feed, **made.teacher.targets(feed)})
        adam.step(gradients, 0.0)

    theirs = torch_step(shapes_of(path), shapes_of(subject.pruned), size)
    seconds: dict[Callable[[], object], list[float]] = {ours: [], theirs: []}
    for step in [ours, theirs] * (repeats + 2):
        start = time.process_time()
        step()
        seconds[step].append(time.process_time() - start)
    mine, other = (median(found[2:]) for found in seconds.values())
    return f"{mine:.3f} processor s, PyTorch {other:.3f}: {mine / other:.2f} times"


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.option("--heads", default="0:0", show_default=True, help="What the student lacks.")
@click.option("--provider", default="cuda", show_default=True, help="Where to run.")
@click.option("--batch", default=16, show_default=True, help="Samples of a batch.")
@click.option("--seq", default=128, show_default=True, help="Tokens of a sample.")
@click.option("--repeats", default=10, show_default=True, help="Runs that are timed.")
@click.option("--torch", "in_torch", is_flag=True, help="Only whole steps, beside PyTorch's.")
def main(model: Path, heads: str, provider: str, batch: int, seq: int, repeats: int, in_torch: bool) -> None:
    """Print the figures."""
    where, size = resolve_provider(provider), (batch, seq)
    if in_torch:
        click.echo(beside_torch(model, heads, where, size, repeats))
    else:
        click.echo(recovery_step(model, heads, where, size, repeats))


if __name__ == "__main__":
    main()
