"""What scores cost: exact ablation against one pass per head, and reconstruction against forward passes.

    python benchmarks/scoring.py MODEL TOKENIZER TEXT [--samples 64]

The plain way masks one head, loads that model into ONNX Runtime and runs all data through it, head after head.
Both ways run in this process on the same data, and their scores are compared.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime

from onnxheadprune import score
from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.sites.find import sites_of
from onnxheadprune.data.calibration import Calibration, calibration_data
from onnxheadprune.data.drift import EffectMeter
from onnxheadprune.data.text import text_feeds
from onnxheadprune.model.graph.main_output import require_main_output
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import Session
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from onnxheadprune.runtime.providers import resolve_provider


def one_pass_per_head(view: GraphView, data: Calibration) -> list[float]:
    """The plain way."""
    provider = resolve_provider("cpu")
    sites = sites_of(view, "model")
    original = Session(view.model, provider, name="the original", optimize=True)
    before = [original.run(feed) for feed in data.feeds]
    scores = []
    for site in sites:
        for head in range(site.num_heads):
            masked = masked_reference(view, sites, {site.index: [head]})
            session = Session(masked, provider, name="masked", optimize=True)
            meter = EffectMeter(require_main_output(view), data.inputs)
            for outputs, feed in zip(before, data.feeds, strict=True):
                meter.add(outputs, session.run(feed), feed)
            scores.append(meter.mean())
    return scores


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.argument("tokenizer", type=click.Path(path_type=Path, exists=True))
@click.argument("text", type=click.Path(path_type=Path, exists=True))
@click.option("--samples", default=64, show_default=True)
def main(model: Path, tokenizer: Path, text: Path, samples: int) -> None:
    """Prints seconds and the largest difference of scores."""
    view = view_of(onnx.load(model))
    feeds = text_feeds(text, tokenizer, graph_inputs(view))
    data = calibration_data(feeds, view).subset(samples)
    started = time.perf_counter()
    scores = score(view.model, method="ablation", data=data, provider="cpu")
    ours = time.perf_counter() - started
    started = time.perf_counter()
    plain = one_pass_per_head(view, data)
    theirs = time.perf_counter() - started
    session = Session(view.model, resolve_provider("cpu"), name="the original", optimize=True)
    started = time.perf_counter()
    for feed in data.feeds:
        session.run(feed)
    one_pass = time.perf_counter() - started
    started = time.perf_counter()
    score(view.model, method="reconstruction", data=data, provider="cpu")
    reconstruction = time.perf_counter() - started
    found = [value for site in scores.sites for value in site.scores if value is not None]
    off = float(np.max(np.abs(np.array(found) - plain)) / np.max(plain))
    click.echo(f"onnxruntime {onnxruntime.__version__}, {data.count} samples, {len(plain)} heads")
    click.echo(f"one forward pass: {one_pass:.2f} s")
    click.echo(f"ablation: {ours:.1f} s, one pass per head: {theirs:.1f} s, ratio {theirs / ours:.2f}")
    click.echo(f"largest difference of scores: {off:.1e} of the largest score")
    click.echo(f"reconstruction, all heads: {reconstruction:.1f} s")


if __name__ == "__main__":
    main()
