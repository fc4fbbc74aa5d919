"""Pruned and quantized, in both orders: all-MiniLM-L6-v2, a quarter of its heads, or heads and neurons, refitted.

    python benchmarks/quantization.py MODEL TOKENIZER [--to int8-dynamic] [--ratio 0.25 | --fewer 1.4] [--budget 10]
        [-o results.json]

--fewer 1.4 means that many times fewer operations of the encoder's blocks, heads and neurons chosen together.

Data and columns are those of `benchmarks/accuracy.py`: 512 sentences to calibrate and refit on, 1,500
others to judge by cosine, overlap of the ten nearest neighbours and rank correlation, against the original in floats.
Speed is measured side by side at batch 8 x 128; on a busy machine only the other columns mean something.
`--all-operators` quantizes statically as ONNX Runtime does by default, to show why `quantize` does not.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeAlias, get_args

import click
import numpy as np
import onnx
import onnxruntime
from accuracy import CALIBRATION, HELD_OUT, Feeds, corpus, embeddings, quality, sentence_feeds

import onnxheadprune as ohp
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from onnxheadprune.runtime.quantizing import To

Figures: TypeAlias = tuple[float, float, float]
ORIGINAL, PRUNED, QUANTIZED = "original", "pruned", "quantized"
PRUNED_FIRST, QUANTIZED_FIRST = "pruned, then quantized", "quantized, then pruned"


def told(models: Mapping[str, Path], budget: float, judged: Mapping[str, Figures]) -> list[dict[str, Any]]:
    """The rows, printed as a Markdown table too."""
    found = ohp.bench([*models.values()], provider="cpu", batch=8, seq=128, time_budget=budget, memory=False)
    medians = [cell.latency.p50 for number in range(len(models)) for cell in found.cells_of(number)]
    times = dict(zip(models, medians, strict=True))
    click.echo("\n| model | file | times as fast | as fast as quantized | cosine / overlap / rank |")
    click.echo("|---|---:|---:|---:|---|")
    rows = []
    for name, path in models.items():
        speed, against = (times[other] / times[name] for other in (ORIGINAL, QUANTIZED))
        shown = " / ".join(f"{value:.3f}" for value in judged[name])
        size = path.stat().st_size
        click.echo(f"| {name} | {size / 1e6:.1f} MB | {speed:.2f} | {against:.2f} | {shown} |")
        figures = dict(zip(("cosine", "overlap", "rank"), judged[name], strict=True))
        rows.append(
            {"name": name, "file_bytes": size, "speedup": speed, "against_quantized": against, **figures}
        )
    return rows


def by_default(model: Path, feeds: Feeds, held: Feeds, original: np.ndarray[Any, Any]) -> None:
    """ONNX Runtime's own choice of operators for static quantization."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "all.onnx")
        quantize_static(model, path, Reader(), per_channel=True, activation_type=QuantType.QUInt8)
        figures = quality(embeddings(onnx.load(path), held), original)
    click.echo(f"int8-qdq of all operators: {' / '.join(f'{value:.3f}' for value in figures)}")


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.argument("tokenizer", type=click.Path(path_type=Path, exists=True))
@click.option("--to", "ways", type=click.Choice(get_args(To)), multiple=True, default=("int8-dynamic",))
@click.option("--ratio", default=0.25, show_default=True)
@click.option("--fewer", type=float, help="Take heads and neurons, to so many times fewer operations.")
@click.option("--sentences", default=CALIBRATION, show_default=True)
@click.option("--held-out", default=HELD_OUT, show_default=True)
@click.option("--budget", default=10.0, show_default=True, help="Seconds of measuring.")
@click.option("--all-operators", is_flag=True)
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(
    model: Path,
    tokenizer: Path,
    ways: tuple[To, ...],
    ratio: float,
    fewer: float | None,
    sentences: int,
    held_out: int,
    budget: float,
    all_operators: bool,
    output: Path | None,
) -> None:
    """Prints a table per way of quantization."""
    texts, proto = corpus(), onnx.load(model)
    inputs = graph_inputs(view_of(proto))

    def feeds(chosen: Sequence[str]) -> Feeds:
        return sentence_feeds(chosen, tokenizer, inputs)

    data, held = feeds(texts[:sentences]), feeds(texts[-held_out:])
    original = embeddings(proto, held)
    load = os.getloadavg()[0]
    click.echo(f"{date.today()}, onnxruntime {onnxruntime.__version__}, load average {load:.1f}")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        target: dict[str, Any] = {"ratio": ratio}
        what = f"{ratio:.0%} of the heads"
        if fewer is not None:
            target = {"ratio": 1 - 1 / fewer, "units": "heads,neurons"}
            what = f"{fewer:g} times fewer operations"
        names = (PRUNED, QUANTIZED, PRUNED_FIRST, QUANTIZED_FIRST)
        models = {ORIGINAL: model} | {name: Path(folder, f"{name}.onnx") for name in names}
        cut = ohp.prune(model, models[PRUNED], **target, data=data, provider="cpu")
        for way in ways:
            click.echo(f"\n{way}, {what}")
            options: dict[str, Any] = {"to": way, "data": data, "provider": "cpu"}
            ohp.quantize(model, models[QUANTIZED], **options)
            ohp.quantize(models[PRUNED], models[PRUNED_FIRST], **options)
            # The same units, refitted.
            ohp.prune(
                models[QUANTIZED],
                models[QUANTIZED_FIRST],
                heads=cut.plan.spec,
                refit=True,
                data=data,
                provider="cpu",
            )
            judged = {
                name: quality(embeddings(onnx.load(path), held), original) for name, path in models.items()
            }
            found[way] = told(models, budget, judged)
    if all_operators:
        by_default(model, data, held, original)
    if output is not None:
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
