"""The picture that decides: speed against quality of all-MiniLM-L6-v2, of its cuts, and of each in int8.

    python benchmarks/speed_picture.py MODEL TOKENIZER FOLDER [--rival onnxsim.onnx]
    python benchmarks/speed_picture.py --draw            # from the figures of an earlier run

Models that FOLDER lacks are made by the command line: heads, or heads and neurons, chosen and refitted on 512 sentences
of quality.py, then quantized (`--to int8-dynamic`). Quality is the overlap of the ten nearest neighbors on 1,500 other
sentences. Speed is processor time on one thread, which other work on the machine disturbs least: all models in turn in
each round, the median of the rounds' ratios, and the range of the middle nine tenths of them. A rival is a file that
another tool made of the same model, as `onnxsim` of quality.py makes it. The figures are written beside the picture.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
import numpy as np
import onnxruntime
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from quality import CALIBRATION, HELD_OUT, alike, corpus, embeddings
from readme_picture import ACCURACY, GOES, INK, PALE, ROOT, SPEED, STAYS

from onnxheadprune.cli import main as command
from onnxheadprune.reporting.pictures.style import STYLE, Picture

PICTURE = ROOT / "docs" / "pictures" / "speed.svg"
CUTS = {
    "original": "",
    "a quarter of the heads": "--ratio 0.25",
    "half of the heads": "--ratio 0.5",
    "1.4x fewer operations": "--ratio 0.2857 --units heads,neurons",
    "2x fewer operations": "--ratio 0.5 --units heads,neurons",
}
"""Cuts by name, with the options of `prune` that make them."""
RIVAL = "onnxsim, half of the heads"
SIZES = ((8, 128), (1, 128))
COLORS = dict(zip([*CUTS, RIVAL], (INK, STAYS, STAYS, SPEED, SPEED, GOES), strict=True))


def made(model: Path, tokenizer: Path, folder: Path) -> dict[str, Path]:
    """The files by their names, with " in int8" for quantized ones; those that are not there are made.

    Raises:
        click.ClickException: if a command fails.
    """
    sentences = folder / "sentences.txt"
    sentences.write_text("\n".join(corpus()[:CALIBRATION]) + "\n", encoding="utf-8")
    text = ["--data", str(sentences), "--tokenizer", str(tokenizer), "--provider", "cpu"]
    found: dict[str, Path] = {}
    for number, (name, options) in enumerate(CUTS.items()):
        found[name] = model if not options else folder / f"cut{number}.onnx"
        found[f"{name} in int8"] = folder / f"cut{number}-int8.onnx"
        calls = [["prune", str(model), "-o", str(found[name]), *options.split(), *text]]
        calls += [["quantize", str(found[name]), "--to", "int8-dynamic", "-o", str(found[f"{name} in int8"])]]
        for call in calls:
            if not Path(call[call.index("-o") + 1]).exists() and command(call) != 0:
                raise click.ClickException(" ".join(call))
    return found


def judged(models: Mapping[str, Path], tokenizer: Path) -> dict[str, dict[str, float]]:
    """Quality of each model, against the first one."""
    held = corpus()[-HELD_OUT:]
    original = embeddings(next(iter(models.values())), tokenizer, held)
    return {name: alike(embeddings(path, tokenizer, held), original) for name, path in models.items()}


def timed(models: Mapping[str, Path], batch: int, length: int, seconds: float) -> dict[str, list[float]]:
    """Speed-ups over the first model: low, median and high of all rounds."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    ids = np.random.default_rng(0).integers(1000, 20000, (batch, length))
    values = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    sessions = {
        name: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for name, path in models.items()
    }
    rounds: dict[str, list[float]] = {name: [] for name in models}
    began = time.process_time()
    while time.process_time() - began < seconds or len(rounds[next(iter(models))]) < 12:
        for name, session in sessions.items():
            feed = {item.name: values[item.name] for item in session.get_inputs()}
            started = time.process_time()
            session.run(None, feed)
            rounds[name].append(time.process_time() - started)
    first, *_ = rounds.values()
    found = {}
    for name, own in rounds.items():
        # The first rounds prepare memory.
        ratios = sorted(one / other for one, other in zip(first[2:], own[2:], strict=True))
        low, high = np.quantile(ratios, (0.05, 0.95))
        found[name] = [float(low), statistics.median(ratios), float(high)]
    return found


def draw(figures: dict[str, Any]) -> Picture:
    """Ten nearest neighbors that stay over measured speed, a panel for each size."""
    with mpl.rc_context({**STYLE, **PALE}):
        figure = Picture(figsize=(10.4, 4.2), layout="constrained")
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
        panels = figure.subplots(1, len(SIZES), sharey=True)
        for axes, (batch, length) in zip(panels, SIZES, strict=True):
            axes.set_title(f"batch {batch}, {length} tokens")
            axes.set_xlabel("times as fast as the original, measured")
            _panel(axes, figures["rows"], f"{batch} x {length}")
        panels[0].set_ylabel("ten nearest neighbors kept")
        panels[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def _panel(axes: Axes, rows: Sequence[dict[str, Any]], size: str) -> None:
    """A dot for each model, hollow in int8; a line leads from one to the other."""
    places = {row["name"]: (row["times_as_fast"][size][1], row["overlap"]) for row in rows}
    for name, place in places.items():
        plain = name.removesuffix(" in int8")
        color = COLORS[plain]
        is_float = plain == name
        axes.plot(
            *place, "o", color=color, markerfacecolor=color if is_float else "none", markeredgewidth=1.6
        )
        if is_float:
            # Names of neighbors lead away from each other.
            side = {STAYS: "right", SPEED: "left"}.get(color, "center")
            axes.annotate(plain, place, (0, 8), textcoords="offset points", ha=side, fontsize=9, color=color)
        else:
            axes.plot(*zip(places[plain], place, strict=True), ":", color=color)
    widest = max(place[0] for place in places.values())
    axes.set(xlim=(0.15, widest + 0.3), ylim=(min(place[1] for place in places.values()) - 0.05, 1.06))
    axes.annotate(
        "hollow: in int8", (0.98, 0.03), xycoords="axes fraction", ha="right", fontsize=9, color=ACCURACY
    )


def described(figures: dict[str, Any]) -> str:
    """The figures as text, which the file of the picture holds."""
    return "; ".join(
        f"{row['name']}: {row['overlap']:.1%} of neighbors,"
        + ",".join(
            f" {values[1]:.2f} times as fast at {size}" for size, values in row["times_as_fast"].items()
        )
        for row in figures["rows"]
    )


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True), required=False)
@click.argument("tokenizer", type=click.Path(path_type=Path, exists=True), required=False)
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option(
    "--rival", type=click.Path(path_type=Path, exists=True), help="onnxsim's model without half of the heads."
)
@click.option("--seconds", default=60.0, show_default=True, help="Processor seconds of timing per size.")
@click.option("--draw", "only_draw", is_flag=True, help="Draw the figures of an earlier run.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=PICTURE, show_default=False)
def main(
    model: Path | None,
    tokenizer: Path | None,
    folder: Path | None,
    rival: Path | None,
    seconds: float,
    only_draw: bool,
    output: Path,
) -> None:
    """Measure the models, or draw what was measured."""
    beside = output.with_suffix(".json")
    if not only_draw:
        if model is None or tokenizer is None or folder is None:
            raise click.UsageError("name MODEL, TOKENIZER and FOLDER, or --draw")
        folder.mkdir(exist_ok=True)
        models = made(model, tokenizer, folder) | ({} if rival is None else {RIVAL: rival})
        facts = judged(models, tokenizer)
        speeds = {f"{batch} x {length}": timed(models, batch, length, seconds) for batch, length in SIZES}
        rows = [
            {
                "name": name,
                "bytes": path.stat().st_size,
                **{key: round(value, 4) for key, value in facts[name].items()},
                "times_as_fast": {
                    size: [round(value, 3) for value in found[name]] for size, found in speeds.items()
                },
            }
            for name, path in models.items()
        ]
        measured_on = {
            "date": str(date.today()),
            "onnxruntime": onnxruntime.__version__,
            "machine": platform.machine(),
            "load_average": round(os.getloadavg()[0], 1),
        }
        beside.write_text(json.dumps({**measured_on, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    figures = json.loads(beside.read_text(encoding="utf-8"))
    title = "Nearest neighbors that stay, over measured speed"
    with mpl.rc_context({**STYLE, **PALE}):
        metadata = {"Date": None, "Title": title, "Description": described(figures)}
        draw(figures).savefig(output, metadata=metadata)
    for row in figures["rows"]:
        shown = " | ".join(
            f"{low:.2f} .. **{mid:.2f}** .. {high:.2f}" for low, mid, high in row["times_as_fast"].values()
        )
        click.echo(f"| {row['name']} | {row['bytes'] / 1e6:.1f} MB | {row['overlap']:.3f} | {shown} |")


if __name__ == "__main__":
    main()
