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
`--provider cpu --layers 4 --batch 1,8 --seq 128 --budget 60` asks the same of a processor, where float32 alone counts.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import click
from encoders import REMOVED, encoders, to_float16
from recovery_step import NEAR, recovery_step

from onnxheadprune import Benchmark, bench, prune, validate
from onnxheadprune.benchmarking.measure import Ratio
from onnxheadprune.runtime import CUDA
from onnxheadprune.runtime.providers import resolve_provider

LEAST_SHARE = 0.05
"""Below this part of all operations attention is noise."""
RECOVERED = 16
"""Samples of a batch of a recovery."""
SILENT = "no measurable difference"
WITHIN = 0.03
REACHED = 0.90
SATURATING = 8
"""Batch size from which a cut must pay."""


@dataclass(frozen=True)
class Row:
    """One promise at one size."""

    what: str
    size: str
    figure: str
    target: str
    kept: bool | None

    def markdown(self) -> str:
        """The row of a table."""
        mark = {True: "kept", False: "**missed**", None: ""}[self.kept]
        return f"| {self.what} | {self.size} | {self.figure} | {self.target} | {mark} |"


def spell(ratio: Ratio) -> str:
    """A ratio with its interval."""
    return f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def same_speed(what: str, result: Benchmark) -> list[Row]:
    """The second model must take as long as the first one, within 3 %."""
    rows = []
    for cell in result.cells_of(1):
        assert cell.comparison is not None
        ratio = cell.comparison.ratio
        # An interval wider than the target itself proves neither side.
        telling = ratio.high - ratio.low <= 2 * WITHIN or ratio.low > 1 + WITHIN
        figure = f"latency ratio {spell(ratio)}" + ("" if telling else ", too noisy to tell")
        kept = ratio.value <= 1 + WITHIN if telling else None
        rows.append(Row(what, cell.point.label, figure, "at most 1.03", kept))
    return rows


def bound_reached(what: str, result: Benchmark) -> list[Row]:
    """The second model must reach 90 % of the speed-up that its operations allow, from batch 8 on."""
    rows = []
    for cell in result.cells_of(1):
        compared = cell.comparison
        assert compared is not None and compared.bound is not None and compared.reached is not None
        saved = "" if compared.saved is None else f"; {compared.saved:.0%} of the time that can be saved"
        figure = f"{compared.speedup:.3f}x of {compared.bound:.3f}x = {compared.reached:.1%}{saved}"
        counts = cell.point.batch >= SATURATING
        rows.append(
            Row(
                what,
                cell.point.label,
                figure,
                "at least 90 %" if counts else "none below batch 8",
                compared.reached >= REACHED if counts else None,
            )
        )
    return rows


def faster(what: str, result: Benchmark) -> list[Row]:
    """The second model must be faster than the first one wherever attention is not noise."""
    rows = []
    for cell in result.cells_of(1):
        assert cell.comparison is not None
        ratio, verdict = cell.comparison.ratio, cell.comparison.verdict
        rows.append(
            Row(what, cell.point.label, f"{1 / ratio.value:.3f}x, {verdict}", "faster", verdict == "faster")
        )
    return rows


def markdown(title: str, result: Benchmark, rows: Sequence[Row], budget: float) -> str:
    """The whole page."""
    lines = [f"## {title}", "", about(result.machine, result.versions, result.provider.label, budget), ""]
    lines += ["| what | size | figure | target | |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(row.markdown() for row in rows)]) + "\n"


def about(machine: dict[str, Any] | Any, versions: dict[str, str] | Any, provider: str, budget: float) -> str:
    """Machine, versions and date in one sentence."""
    cards = ", ".join(card["name"] for card in machine["cards"]) or "no GPU"
    load = machine["load_average"]
    busy = "" if load is None else f", load average before the start {load:.1f}"
    return (
        f"{machine['processor']}, {machine['cores']} cores, {cards}{busy}; Python {platform.python_version()}, onnx"
        f" {versions['onnx']}, {versions['onnxruntime_package']} {versions['onnxruntime']} on {provider};"
        f" {budget:.0f} s per size; {date.today():%d %B %Y}."
    )


def against_itself(path: Path, times: int, seq: int, budget: float, provider: str = "cpu") -> Row:
    """The verdicts of `bench` on a model and itself: false alarms."""
    results = [
        bench(
            path, path, provider=provider, batch=[1], seq=[seq], time_budget=budget, memory=False, seed=seed
        )
        for seed in range(times)
    ]
    silent = sum(1 for result in results if result.verdict(1) == SILENT)
    return Row(
        "a model against itself",
        f"batch 1, seq {seq}",
        f"{silent} of {times} times {SILENT!r}",
        "always",
        silent == times,
    )


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
    taken = recovery_step(made.original, removed, resolve_provider(provider), steps)
    figure = f"{taken.milliseconds:.1f} ms, gradients {taken.apart:.1e} from the CPU's"
    label = f"batch {steps[0]}, sequence {steps[1]}"
    yield [Row("recovery step", label, figure, f"at most {NEAR:g} from the CPU's", taken.apart <= NEAR)]
    yield bound_reached("half of the heads, float32", bench(made.original, made.pruned, **sizes))
    yield same_speed("pruned by exported small, float32", bench(made.small, made.pruned, **sizes))
    if not on_cuda:
        yield [against_itself(made.small, times, 32, min(sizes["time_budget"], 10.0), provider)]
        return
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
    graphs = bench(half[0], half[1], **sizes | {"cuda_graph": True})
    yield bound_reached("half of the heads, float16, CUDA graphs", graphs)
    yield [Row("CUDA graphs", "", note, "", None) for note in graphs.notes if "CUDA graphs" in note]
    yield [against_itself(made.small, times, 128, 10.0, provider)]


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
