"""What heads, neurons and layers cost under one budget: all-MiniLM-L6-v2 at fewer operations of its encoder.

    python benchmarks/units.py MODEL TOKENIZER [--speed 1.4 --speed 2] [--way joint] [--recover 10] [-o results.json]

The files, the sentences and the judge are those of accuracy.py. A speed of 2 means half of the multiply-adds of the
attention and feed-forward blocks at the length of the calibration sentences. `uniform` takes the same share of every
site; heads, neurons or layers alone are shown as far as they reach.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import click
import onnx
import onnxruntime
from accuracy import CALIBRATION, HELD_OUT, Judge, clocks, corpus

import onnxheadprune as ohp
from onnxheadprune.attention.sites.find import view_of
from onnxheadprune.errors import RefusedError
from onnxheadprune.runtime.feeds import graph_inputs
from onnxheadprune.selection.activations import text_feeds
from onnxheadprune.selection.recovery import parse_budget

WAYS = ("joint", "with layers", "uniform", "heads", "neurons", "layers")


def wish_of(way: str, share: float, sites: ohp.Sites) -> ohp.Wish | None:
    """The wish that saves a share of the blocks' operations in some way, None where that way cannot save so much.

    Args:
        way: one of `WAYS`.
        share: of the operations of all blocks.
        sites: of the model.
    """
    heads = sum(site.flops_per_token for site in sites)
    neurons = sum(site.flops_per_token for site in sites.neurons)
    # With one kind alone a ratio is a share of that kind.
    own = {"heads": heads, "neurons": neurons}.get(way, heads + neurons)
    ratio = share * (heads + neurons) / own
    if ratio >= 1:
        return None
    kinds = {
        "joint": ("heads", "neurons"),
        "uniform": ("heads", "neurons"),
        "with layers": ("heads", "neurons", "layers"),
    }
    limits = ohp.Limits(floor=0, uniform=way == "uniform")
    return ohp.Wish(ratio=ratio, units=frozenset(kinds.get(way, (way,))), limits=limits)


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.argument("tokenizer", type=click.Path(path_type=Path, exists=True))
@click.option("--speed", "speeds", type=float, multiple=True, default=(1.4, 2.0), show_default=True)
@click.option("--way", "ways", type=click.Choice(WAYS), multiple=True, default=WAYS)
@click.option("--recover", metavar="N|Ts", help="Also train what is left of the first way, for so long.")
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(
    model: Path,
    tokenizer: Path,
    speeds: Sequence[float],
    ways: Sequence[str],
    recover: str | None,
    output: Path | None,
) -> None:
    """Prints a Markdown table: cosine / overlap / rank correlation, and the seconds it took."""
    sentences, proto = corpus(), onnx.load(model)
    inputs = graph_inputs(view_of(proto))

    def feeds(chosen: Sequence[str]) -> ohp.Calibration:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "text.txt")
            path.write_text("\n".join(chosen), encoding="utf-8")
            return text_feeds(path, tokenizer, inputs)

    data, judge = feeds(sentences[:CALIBRATION]), Judge(proto, feeds(sentences[-HELD_OUT:]))
    click.echo(
        f"{date.today()}, {platform.processor() or platform.machine()}, onnxruntime {onnxruntime.__version__}"
    )
    click.echo("\n| way | operations saved | cosine / overlap / rank | time |\n|---|---|---|---|")
    sites = ohp.find_sites(model)
    for speed in speeds:
        share = 1 - 1 / speed
        for way in ways:
            wish = wish_of(way, share, sites)
            budgets = [None, recover] if recover is not None and way == ways[0] else [None]
            for budget in budgets if wish is not None else ():
                since = clocks()
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        made = ohp.prune(
                            model,
                            None,
                            Path(folder, "pruned.onnx"),
                            wish=wish,
                            data=data,
                            provider="cpu",
                            recover=None if budget is None else parse_budget(budget),
                        )
                    except RefusedError as error:
                        click.echo(f"| {way} | {share:.0%} | {error} | |")
                        continue
                    trained = "" if budget is None else f", trained for {parse_budget(budget)}"
                    judge.judge(f"{way}, {speed:g}x{trained}", share, made.model, since)
    if output is not None:
        output.write_text(json.dumps(judge.rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
