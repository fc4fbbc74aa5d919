"""What a cut is worth on the CPU, against what it could be worth.

    python benchmarks/latency.py [--layers 4] [--budget 60]

Three questions: does a pruned model run as fast as the same network exported small; does half of the heads give the
speed-up that the operations allow; does `bench` stay silent when a model meets itself. Needs the `samples` extra
(torch, transformers) for the export. Prints a Markdown table; exit code 1 if a target was missed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import gettempdir

import click
from encoders import Encoders, encoders
from targets import Row, bound_reached, markdown, same_speed

from onnxheadprune import Benchmark, bench

SILENT = "no measurable difference"


def against_itself(
    path: Path, times: int, seq: int, budget: float, provider: str = "cpu"
) -> tuple[Row, list[Benchmark]]:
    """How often a model differs from itself."""
    results = [
        bench(
            path, path, provider=provider, batch=[1], seq=[seq], time_budget=budget, memory=False, seed=seed
        )
        for seed in range(times)
    ]
    silent = sum(1 for result in results if result.verdict(1) == SILENT)
    row = Row(
        "a model against itself",
        f"batch 1, seq {seq}",
        f"{silent} of {times} times {SILENT!r}",
        "always",
        silent == times,
    )
    return row, results


@click.command()
@click.option("--layers", default=4, show_default=True, help="Encoder layers, each as wide as BERT-base's.")
@click.option("--batch", default="1,8", show_default=True, help="Batch sizes.")
@click.option("--seq", default=128, show_default=True, help="Length of the sequences.")
@click.option("--budget", default=60.0, show_default=True, help="Seconds per size and comparison.")
@click.option(
    "--times", default=20, show_default=True, help="How often a model meets itself; 0 leaves it out."
)
@click.option(
    "--folder", type=click.Path(path_type=Path), default=Path(gettempdir(), "onnxheadprune-encoders")
)
def main(layers: int, batch: str, seq: int, budget: float, times: int, folder: Path) -> None:
    """Measure and print."""
    made: Encoders = encoders(folder, layers)
    batches = [int(item) for item in batch.split(",")]
    sizes = {"provider": "cpu", "batch": batches, "seq": [seq], "time_budget": budget, "memory": False}
    cut = bench(made.original, made.pruned, **sizes)
    rows = bound_reached("half of the heads, by the bound of its operations", cut)
    rows += same_speed("pruned, by the same network exported small", bench(made.small, made.pruned, **sizes))
    if times:
        rows.append(against_itself(made.small, times, 32, min(budget, 10.0))[0])
    title = f"{layers} layers of BERT-base, half of the heads, CPU"
    click.echo(markdown(title, cut, rows, budget))
    sys.exit(any(row.kept is False for row in rows))


if __name__ == "__main__":
    main()
