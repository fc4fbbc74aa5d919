"""Everything that the tool promises about speed on CUDA, in one command on a machine with a card.

    python benchmarks/cuda.py -o cuda.md

Exports a BERT encoder (12 layers, BERT-base's widths), removes half of its heads, proves the result on CUDA with the
CPU as a second opinion, then measures:

* the pruned model against the same network exported small, float32 and float16: within 3 %;
* the pruned model against the original: 90 % of the speed-up that the operations allow, from batch 8 on;
* float16, the fused pruned model against the unfused original and the unfused pruned one: faster wherever attention
  is not noise;
* a model against itself: no measurable difference, 20 times of 20;
* with CUDA graphs, the pruned model against the original once more;
* a step of its recovery: milliseconds, and how far gradients are from those of the CPU.

Needs the extras `cuda` and `samples` (torch on the CPU is enough, for the export; `--folder` keeps the models).
`--provider cpu --layers 1 --batch 1,8 --seq 64 --budget 3 --times 1` tries the script itself without a card.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import click
from encoders import REMOVED, encoders, to_float16
from latency import against_itself
from recovery_step import recovery_rows
from targets import Row, bound_reached, faster, markdown, same_speed

from onnxheadprune import Benchmark, bench, prune, validate
from onnxheadprune.runtime import CUDA
from onnxheadprune.runtime.providers import resolve_provider

LEAST_SHARE = 0.05
"""Below this part of all operations attention is noise."""
RECOVERED = 16
"""Samples of a batch of a recovery."""


def proven(original: Path, pruned: Path, provider: str) -> Row:
    """Exactness on this provider, before anything is timed."""
    result = validate(original, pruned, provider=provider)
    settings = sorted({case.settings for case in result.cases})
    return Row(
        "pruned equals masked",
        ", ".join(settings),
        f"{result.verdict}, error {result.error:.1e}",
        "passed",
        result.passed,
    )


def fused_rows(before: Path, after: Path, what: str, sizes: dict[str, Any]) -> tuple[list[Row], Benchmark]:
    """Where attention is a real part of the work, the fused model must win."""
    result = bench(before, after, **sizes | {"memory": True})
    shares = [cell.flops.attention_share or 0.0 for cell in result.cells_of(0)]
    rows = [
        row if share >= LEAST_SHARE else Row(row.what, row.size, row.figure, "none: attention is noise", None)
        for row, share in zip(faster(what, result), shares, strict=True)
    ]
    footprint = result.models[1].footprint
    if footprint is not None:
        rows.append(Row(f"{what}: kernels", "largest", ", ".join(footprint.kernels) or "not told", "", None))
    return rows, result


def everything(
    folder: Path, layers: int, provider: str, times: int, sizes: dict[str, Any]
) -> Iterator[list[Row]]:
    """Rows as they are found."""
    on_cuda = resolve_provider(provider).name == CUDA
    made = encoders(folder, layers)
    yield [proven(made.original, made.pruned, provider)]
    removed = {layer: list(REMOVED) for layer in range(layers)}
    steps = (RECOVERED, min(sizes["seq"]))
    yield list(recovery_rows(made.original, removed, resolve_provider(provider), steps))
    yield bound_reached("half of the heads, float32", bench(made.original, made.pruned, **sizes))
    yield same_speed("pruned by exported small, float32", bench(made.small, made.pruned, **sizes))
    half = [
        to_float16(path, path.with_name(f"{path.stem}-fp16.onnx"))
        for path in (made.original, made.pruned, made.small)
    ]
    yield bound_reached("half of the heads, float16", bench(half[0], half[1], **sizes))
    yield same_speed("pruned by exported small, float16", bench(half[2], half[1], **sizes))
    fused = folder / f"bert{layers}-pruned-fp16-fused.onnx"
    prune(half[1], fused, heads={}, fuse="contrib", provider=provider, accept_inconclusive=True)
    for before, what in ((half[0], "unfused original"), (half[1], "unfused pruned")):
        yield fused_rows(before, fused, f"fused pruned by {what}, float16", sizes)[0]
    if on_cuda:
        graphs = bench(half[0], half[1], **sizes | {"cuda_graph": True})
        yield bound_reached("half of the heads, float16, CUDA graphs", graphs)
        yield [Row("CUDA graphs", "", note, "", None) for note in graphs.notes if "CUDA graphs" in note]
    yield [against_itself(made.small, times, 128, 10.0, provider)[0]]


@click.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Where to write the table; stdout by default."
)
@click.option("--layers", default=12, show_default=True, help="Encoder layers.")
@click.option("--batch", default="1,8,32", show_default=True, help="Batch sizes.")
@click.option("--seq", default="128,512", show_default=True, help="Lengths of the sequences.")
@click.option("--budget", default=10.0, show_default=True, help="Seconds per size and comparison.")
@click.option("--times", default=20, show_default=True, help="How often a model meets itself.")
@click.option("--provider", default="cuda", show_default=True, help="Another one only to try the script.")
@click.option(
    "--folder", type=click.Path(path_type=Path), default=Path(gettempdir(), "onnxheadprune-encoders")
)
def main(
    output: Path | None,
    layers: int,
    batch: str,
    seq: str,
    budget: float,
    times: int,
    provider: str,
    folder: Path,
) -> None:
    """Measure and write a Markdown table; exit code 1 if a target was missed."""
    batches, lengths = ([int(item) for item in text.split(",")] for text in (batch, seq))
    sizes: dict[str, Any] = {
        "provider": resolve_provider(provider),
        "batch": batches,
        "seq": lengths,
        "time_budget": budget,
        "memory": False,
    }
    rows: list[Row] = []
    for found in everything(folder, layers, provider, times, sizes):
        rows += found
        for row in found:
            click.echo(row.markdown(), err=True)
    made = encoders(folder, layers)
    last = bench(made.small, **sizes | {"batch": batches[:1], "seq": lengths[:1], "time_budget": 1.0})
    page = markdown(
        f"{layers} layers of BERT-base, half of the heads, {last.provider.label}", last, rows, budget
    )
    if output is None:
        click.echo(page)
    else:
        output.write_text(page, encoding="utf-8")
    sys.exit(any(row.kept is False for row in rows))


if __name__ == "__main__":
    main()
