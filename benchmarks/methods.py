"""Which score chooses best: drift on other data when half of the heads, or of the neurons, are gone, the rest refitted.

    python benchmarks/methods.py [--minilm MODEL TOKENIZER] [--sentences 128] [--way taylor] [-o results.json]

The digits ViT of sample_models/, and with `--minilm` all-MiniLM-L6-v2 on sentences of accuracy.py.
Each method chooses by `prune --method`, on the same data that the refit learns from; "measured cuts" is the default.
Models are not validated: a proof has nothing to say about drift. A last line says how the scores of heads are ordered
beside those of ablation, which is exact about one head: Spearman's correlation.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime
from accuracy import corpus

import onnxheadprune as ohp
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.data.drift import EffectMeter
from onnxheadprune.data.text import text_feeds
from onnxheadprune.model.graph.main_output import require_main_output
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import Session
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from onnxheadprune.runtime.providers import resolve_provider
from onnxheadprune.settings.registry import METHODS

SAMPLES = Path(__file__).parents[1] / "sample_models"
RATIO = 0.5
MEASURED = "measured cuts"
KINDS = ("heads", "neurons")
WAYS = (MEASURED, *METHODS)


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with data to choose and refit on, and other data to judge by."""

    name: str
    model: Path
    learn: ohp.Calibration
    judge: ohp.Calibration


def sample(name: str, stem: str) -> Subject:
    """A model of sample_models/ with its files."""
    path = SAMPLES / f"{name}.onnx"
    view = view_of(onnx.load(path))
    parts = [
        calibration_data(str(SAMPLES / f"{stem}_{part}.npz"), view).subset(512)
        for part in ("calibration", "test")
    ]
    return Subject(name, path, *parts)


def encoder(model: Path, tokenizer: Path, count: int) -> Subject:
    """MiniLM with sentences: the first to learn from, the last to judge by."""
    sentences, view = corpus(), view_of(onnx.load(model))
    parts = []
    for chosen in (sentences[:count], sentences[-count:]):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "text.txt")
            path.write_text("\n".join(chosen), encoding="utf-8")
            parts.append(calibration_data(text_feeds(path, tokenizer, graph_inputs(view)), view))
    return Subject("minilm", model, *parts)


def drift(subject: Subject, pruned: onnx.ModelProto) -> float:
    """How far the main output moves on the data to judge by."""
    original, provider = onnx.load(subject.model), resolve_provider("cpu")
    meter = EffectMeter(require_main_output(view_of(original)), subject.judge.inputs)
    before, after = (Session(model, provider, optimize=True) for model in (original, pruned))
    for feed in subject.judge.feeds:
        meter.add(before.run(feed), after.run(feed), feed)
    return meter.mean()


def rows_of(subject: Subject, kinds: Sequence[str], ways: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each kind of units and each way to choose."""
    known: dict[str, str | None] = {MEASURED: None, **{name: name for name in METHODS}}
    for kind in kinds:
        for method in map(known.__getitem__, ways):
            target: Any = {"ratio": RATIO, "units": kind, "method": method}
            made = ohp.prune(subject.model, **target, data=subject.learn, provider="cpu", validate=False)
            assert made.chosen is not None
            yield {
                "subject": f"{subject.name} {kind}",
                "choice": method or MEASURED,
                "units_removed": made.chosen.selection.count,
                "basis": made.chosen.selection.basis,
                "drift": drift(subject, made.model),
            }


def orders_of(subject: Subject, ways: Sequence[str]) -> dict[str, float]:
    """Spearman's correlation of the scores of all heads with those of ablation."""
    found = {}
    for method in (name for name in METHODS if name in (*ways, "ablation")):
        data = None if method == "weight" else subject.learn
        scores = ohp.score(subject.model, method=method, data=data, provider="cpu")
        found[method] = np.argsort(
            np.argsort([value for site in scores.sites for value in site.scores if value is not None])
        )
    return {
        name: float(np.corrcoef(ranks, found["ablation"])[0, 1])
        for name, ranks in found.items()
        if name != "ablation"
    }


@click.command()
@click.option(
    "--minilm", type=(click.Path(path_type=Path), click.Path(path_type=Path)), metavar="MODEL TOKENIZER"
)
@click.option("--sentences", default=128, show_default=True, help="To learn from, and as many to judge by.")
@click.option("--samples/--no-samples", default=True, help="Also the digits ViT.")
@click.option("--way", "ways", type=click.Choice(WAYS), multiple=True, default=WAYS)
@click.option("--kind", "kinds", type=click.Choice(KINDS), multiple=True, default=KINDS)
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(
    minilm: tuple[Path, Path] | None,
    sentences: int,
    samples: bool,
    kinds: Sequence[str],
    ways: Sequence[str],
    output: Path | None,
) -> None:
    """Prints a row per choice, and one JSON document into a file."""
    subjects = [sample("digits_vit", "digits")] if samples else []
    if minilm is not None:
        subjects.append(encoder(*minilm, sentences))
    document: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, onnxruntime {onnxruntime.__version__}",
        "ratio": RATIO,
        "rows": [],
        "spearman": {},
    }
    for subject in subjects:
        for row in rows_of(subject, kinds, ways):
            document["rows"].append(row)
            what = f"{row['subject']:20} {row['choice']:15} {row['units_removed']:5} units"
            click.echo(f"{what}  drift {row['drift']:.5f}")
            keep(document, output)
        document["spearman"][subject.name] = orders_of(subject, ways)
        click.echo(f"{subject.name}: {document['spearman'][subject.name]}")
        keep(document, output)


def keep(document: dict[str, Any], output: Path | None) -> None:
    """Writes what is known so far."""
    if output is not None:
        output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
