"""What the surgery itself costs, against loading and saving the same file.

    python benchmarks/surgery.py MODEL [--share 0.25] [--rounds 7]

Both sides are timed in turn in one process; the figure is the ratio of their medians. Validation is not
part of it.
"""

from __future__ import annotations

import json
import platform
import random
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

import click
import onnx

from onnxheadprune import inspect, plan_pruning
from onnxheadprune.edit.apply import apply_plan
from onnxheadprune.model.load import load_model
from onnxheadprune.model.save import save_model


def choose(path: Path, share: float, seed: int) -> dict[int, list[int]]:
    """A seeded draw of heads: `share` of all, at least one left in every site."""
    sites = inspect(path)
    pool = [(site.index, head) for site in sites for head in range(1, site.num_heads)]
    total = sum(site.num_heads for site in sites)
    chosen: dict[int, list[int]] = {}
    for index, head in random.Random(seed).sample(pool, round(share * total)):
        chosen.setdefault(index, []).append(head)
    return chosen


def load_and_save(path: Path, target: Path) -> None:
    """The yardstick: what any tool must at least do."""
    onnx.save(onnx.load(path), target)


def prune(path: Path, target: Path, heads: dict[int, list[int]]) -> None:
    """Load, find, plan, cut and write; no validation."""
    model = load_model(path)
    save_model(apply_plan(plan_pruning(model, heads=heads), model), target)


def timed(action: object, *arguments: object) -> float:
    """Seconds of one call."""
    assert callable(action)
    start = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - start


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--share", default=0.25, show_default=True, help="Share of all heads to remove.")
@click.option("--rounds", default=7, show_default=True, help="Timed rounds after one warm-up.")
def main(model: Path, share: float, rounds: int) -> None:
    """Time pruning of MODEL against onnx.load + onnx.save."""
    heads = choose(model, share, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        plain, pruned = Path(folder, "plain.onnx"), Path(folder, "pruned.onnx")
        times: dict[str, list[float]] = {"load_and_save": [], "prune": []}
        for round_number in range(rounds + 1):
            measured = {
                "load_and_save": timed(load_and_save, model, plain),
                "prune": timed(prune, model, pruned, heads),
            }
            if round_number:
                for name, seconds in measured.items():
                    times[name].append(seconds)
        medians = {name: statistics.median(values) for name, values in times.items()}
        result = {
            "date": date.today().isoformat(),
            "machine": f"{platform.processor() or platform.machine()}, Python {platform.python_version()}",
            "onnx": onnx.__version__,
            "model": model.name,
            "bytes_before": model.stat().st_size,
            "bytes_after": pruned.stat().st_size,
            "heads_removed": sum(len(removed) for removed in heads.values()),
            "load_and_save_s": round(medians["load_and_save"], 3),
            "prune_s": round(medians["prune"], 3),
            "ratio": round(medians["prune"] / medians["load_and_save"], 2),
        }
    click.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
