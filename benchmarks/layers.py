"""What dropped layers cost, and what a map in front of them that stands in for them brings.

    python benchmarks/layers.py [--minilm MODEL TOKENIZER] [--sentences 512] [-o results.json]

One layer goes (the last but one), or two (that and the one before it), of the digits ViT and the character GPT of
sample_models/, and of all-MiniLM-L6-v2 if it is given, whose sentences and judge are those of accuracy.py. Three ways:
as it is, with later layers refitted, and with the layer in front standing in as well. Figures are of data that no
refit has seen: pictures, windows of text, sentences.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime
from accuracy import CALIBRATION, HELD_OUT, Judge, clocks, corpus, sentence_feeds
from char_gpt import losses

import onnxheadprune as ohp
from onnxheadprune.attention.layers import layers
from onnxheadprune.choosing.compensation.tasks import Which
from onnxheadprune.model.load import open_structure
from onnxheadprune.model.storage.reading import hydrated
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from onnxheadprune.runtime.feeds.samples import DataSource
from onnxheadprune.workflow.choice.completing import named
from onnxheadprune.workflow.choice.cutting import Cutter, Trying

SAMPLES = Path(__file__).parents[1] / "sample_models"
HERE = Provider(CPU, "benchmark")
WAYS: dict[str, Which | None] = {"as it is": None, "later layers refitted": "behind", "stand-in": "all"}
Figures = dict[str, float]


def accuracy(model: onnx.ModelProto) -> Figures:
    """Share of the digits that are read, in percent."""
    with np.load(SAMPLES / "digits_test.npz") as data:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        logits: Any = session.run(["logits"], {"images": data["images"]})[0]
        return {"accuracy": 100 * float((logits.argmax(axis=1) == data["labels"]).mean())}


def perplexity(model: onnx.ModelProto) -> Figures:
    """Of the windows that neither training nor pruning saw."""
    return {"perplexity": math.exp(losses(model).mean())}


def rows_of(
    name: str, path: Path, data: DataSource, figures: Callable[[onnx.ModelProto], Figures]
) -> list[dict[str, Any]]:
    """All cuts of one model, each with its drift on the calibration data and its figures on other data."""
    rows: list[dict[str, Any]] = [
        {"model": name, "dropped": 0, "way": "original", **figures(onnx.load(path))}
    ]
    shared = Cutter(open_structure(path), data, HERE, Trying(refit=False))
    count = len(layers(shared.sites))
    for dropped in (1, 2):
        spec = {f"layer.{at}": "*" for at in range(count - 1 - dropped, count - 1)}
        for way, which in WAYS.items():
            cutter, chosen = shared, named(shared, spec)
            if which is not None:
                found = shared.compensation(chosen.selection.heads, which)
                cutter = Cutter(shared.model, shared.data, HERE, Trying(given=found))
                chosen = named(cutter, spec)
            row = {"model": name, "dropped": dropped, "way": way, "drift": chosen.drift, "unit": chosen.unit}
            cut = cutter.cut(chosen)
            rows.append(row | figures(hydrated(cut.proto, cut.sources)))
            click.echo(json.dumps(rows[-1]), err=True)
    return rows


def minilm(model: Path, tokenizer: Path, count: int) -> list[dict[str, Any]]:
    """The rows of all-MiniLM-L6-v2, refitted on so many sentences."""
    sentences, proto = corpus(), onnx.load(model)
    inputs = graph_inputs(view_of(proto))

    def feeds(chosen: Sequence[str]) -> ohp.Calibration:
        return sentence_feeds(chosen, tokenizer, inputs)

    judge = Judge(proto, feeds(sentences[-HELD_OUT:]))

    def figures(cut: onnx.ModelProto) -> Figures:
        judge.judge("cut", 0, cut, clocks())
        return {name: judge.rows[-1][name] for name in ("cosine", "overlap", "rank")}

    return rows_of("MiniLM", model, feeds(sentences[:count]), figures)


@click.command()
@click.option("--minilm", "files", nargs=2, type=click.Path(path_type=Path, exists=True))
@click.option("--sentences", default=CALIBRATION, show_default=True, help="To refit MiniLM on.")
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(files: tuple[Path, Path] | None, sentences: int, output: Path | None) -> None:
    """Prints one JSON document with a row per cut."""
    rows = rows_of("digits", SAMPLES / "digits_vit.onnx", str(SAMPLES / "digits_calibration.npz"), accuracy)
    rows += rows_of(
        "char_gpt", SAMPLES / "char_gpt.onnx", str(SAMPLES / "char_gpt_calibration.npz"), perplexity
    )
    if files is not None:
        rows += minilm(*files, sentences)
    document = {
        "date": str(date.today()),
        "machine": platform.processor() or platform.machine(),
        "onnxruntime": onnxruntime.__version__,
        "rows": rows,
    }
    text = json.dumps(document, indent=1)
    click.echo(text)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
