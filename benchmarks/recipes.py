"""Quality of all-MiniLM-L6-v2 after recovery: more steps, more text, with and without neighbours and pull.

    python benchmarks/recipes.py MODEL TOKENIZER [--ratio 0.5] [--recipe "25 epochs"] [--seed 0] [-o results.json]

The files, the sentences and the judge are those of accuracy.py. Each recipe is a whole call of `prune`; without
neighbours and pull tokens and weights stay what they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import click
import onnx
from accuracy import CALIBRATION, HELD_OUT, Judge, clocks, corpus, sentence_feeds

import onnxheadprune as ohp
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.inputs import graph_inputs

LOOKED_UP = "onnxheadprune.training.recover.neighbours_of"
RECIPES = {
    "10 epochs": (CALIBRATION, 10, False),
    "10 epochs with neighbours and pull": (CALIBRATION, 10, True),
    "25 epochs": (CALIBRATION, 25, False),
    "25 epochs with neighbours and pull": (CALIBRATION, 25, True),
    "1,920 sentences, 300 steps": (1920, 2.6, False),
    "1,920 sentences, 800 steps": (1920, 7, False),
}
"""Sentences, epochs, and whether with neighbours and pull."""


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.argument("tokenizer", type=click.Path(path_type=Path, exists=True))
@click.option("--ratio", default=0.5, show_default=True)
@click.option("--recipe", "names", type=click.Choice(list(RECIPES)), multiple=True, default=tuple(RECIPES))
@click.option("--seed", default=0, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(
    model: Path, tokenizer: Path, ratio: float, names: tuple[str, ...], seed: int, output: Path | None
) -> None:
    """Prints a row for each recipe: cosine / overlap / rank correlation, and the seconds it took."""
    sentences, proto = corpus(), onnx.load(model)
    inputs = graph_inputs(view_of(proto))
    judge = Judge(proto, sentence_feeds(sentences[-HELD_OUT:], tokenizer, inputs))
    for name in names:
        count, epochs, exchanges = RECIPES[name]
        data, since = sentence_feeds(sentences[:count], tokenizer, inputs), clocks()
        with mock.patch(LOOKED_UP, return_value=None) if not exchanges else mock.MagicMock():
            made = ohp.prune(model, ratio=ratio, data=data, provider="cpu", seed=seed, recover=epochs)
        judge.judge(name, ratio, made.model, since)
    if output is not None:
        output.write_text(json.dumps(judge.rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
