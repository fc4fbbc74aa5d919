"""`onnxheadprune bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from onnxheadprune.cli.belonging import BENCH, LawfulCommand
from onnxheadprune.cli.bundles import bundled
from onnxheadprune.cli.deploying import follow_links_option
from onnxheadprune.cli.measuring import Timing, measuring_options, read_measuring
from onnxheadprune.cli.options import FILE, OUTPUT, json_option
from onnxheadprune.cli.pairs import joined, pairs_of
from onnxheadprune.cli.presenting import Presentation
from onnxheadprune.cli.repeating import run_record

SLOWER = 1
"""Exit code where a wanted speed-up was not reached."""


@dataclass(frozen=True)
class BenchOptions:
    """What `bench` is given."""

    model: Path
    pruned: tuple[Path, ...]
    provider: str
    timing: Timing
    cuda_graph: bool
    no_memory: bool
    seed: int
    min_speedup: float | None
    csv_path: Path | None
    markdown: Path | None
    plot: Path | None
    follow_links: bool
    as_json: bool


@click.command(cls=LawfulCommand, laws=BENCH, short_help="Measure latency side by side.")
@click.argument("model", type=FILE)
@click.argument("pruned", type=FILE, nargs=-1)
@click.option(
    "--provider",
    default="auto",
    show_default=True,
    metavar="P",
    help="Where to run: auto (CUDA if it really works, else CPU), cpu, cuda or another provider.",
)
@measuring_options
@click.option("--cuda-graph", is_flag=True, help="Capture and replay CUDA graphs, where shapes allow.")
@click.option("--no-memory", is_flag=True, help="Do not measure the peak of memory.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of inputs and order.")
@click.option(
    "--min-speedup",
    type=click.FloatRange(min=0, min_open=True),
    metavar="X",
    help="End with exit code 1 unless every PRUNED is at least X times as fast as MODEL at every size.",
)
@click.option("--csv", "csv_path", type=OUTPUT, metavar="FILE", help="Also write the numbers as CSV.")
@click.option(
    "--export-markdown",
    "markdown",
    type=OUTPUT,
    metavar="FILE",
    help="Also write the latencies as a Markdown table.",
)
@click.option(
    "--plot",
    type=OUTPUT,
    metavar="FILE",
    help="Also write a picture, latency against sizes (.png, .svg, .pdf).",
)
@follow_links_option
@json_option
@bundled(BenchOptions)
def bench(given: BenchOptions) -> int:
    """Measure MODEL and each PRUNED in turn, and say whether they differ: faster, no measurable difference, slower.

    A second session of MODEL runs along as the noise floor. Sizes that are not named are chosen so that the
    model runs. Of folders as exporters write them the file of each network is measured that heads are chosen on.
    """
    from onnxheadprune.benchmarking import BenchRequest, run_benchmark
    from onnxheadprune.benchmarking.gates import speed_gates
    from onnxheadprune.cli.report.benchmark import benchmark_report
    from onnxheadprune.cli.report.benchmark_csv import write_csv
    from onnxheadprune.cli.report.benchmark_markdown import write_markdown
    from onnxheadprune.cli.report.console import err, out
    from onnxheadprune.cli.report.figure import check_picture, save_figure
    from onnxheadprune.cli.report.gates import gate_rows

    if given.plot is not None:
        check_picture(given.plot)
    request = BenchRequest(
        read_measuring(given.timing),
        given.provider,
        given.seed,
        cuda_graph=given.cuda_graph,
        memory=not given.no_memory,
    )
    pairs = pairs_of(given.model, given.pruned, follow_links=given.follow_links, leaders=True)
    if len(pairs) > 1 and any(path is not None for path in (given.csv_path, given.markdown, given.plot)):
        raise click.UsageError(
            f"{given.model} holds {len(pairs)} networks; for a table or picture name the files of one",
            click.get_current_context(),
        )
    documents, passed, presentation = [], True, Presentation()
    for pair in pairs:
        with err().status("looking at the models") as status:
            result = run_benchmark((pair.model, *pair.others), request, status.update)
        gates = [] if given.min_speedup is None else speed_gates(result, given.min_speedup)
        passed = passed and all(gate.passed for gate in gates)
        told = {"gates": [gate.to_dict() for gate in gates], "run": run_record()}
        documents.append(result.to_dict() | told)
        if not given.as_json:
            out().print(*gate_rows(gates), *benchmark_report(result), sep="\n")
        with presentation.prepared():
            if given.csv_path is not None:
                write_csv(result, given.csv_path)
            if given.markdown is not None:
                write_markdown(result, given.markdown)
            if given.plot is not None:
                # Matplotlib takes longer to load than many a model.
                from onnxheadprune.cli.report.pictures.latency import plot_latency

                save_figure(plot_latency(result), given.plot)
    if given.as_json:
        presentation.json(joined(pairs, documents))
    lost = presentation.deliver()
    return lost if passed else SLOWER
