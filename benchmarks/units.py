"""What heads, neurons and layers cost under one budget: all-MiniLM-L6-v2 at fewer operations of its encoder.

    python benchmarks/units.py MODEL TOKENIZER --fewer 2 --way joint --sentences 16384 --time 10m
    python benchmarks/units.py MODEL TOKENIZER [--fewer 1.4 --fewer 2] [--way joint] [--recover 10] [-o results.json]

The files, the sentences and the judge are those of accuracy.py. --fewer 2 means half of the multiply-adds of the
attention and feed-forward blocks at the length of the calibration sentences. `uniform` takes the same share of every
site; heads, neurons or layers alone are shown as far as they reach. `random` and `magnitude` (the least weights in the
map that sums up) take the same share of every site too, and are refitted like the others: what differs is the choice.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime
from accuracy import CALIBRATION, HELD_OUT, SEED, Judge, clocks, corpus, sentence_feeds, timed

import onnxheadprune as ohp
from onnxheadprune.choosing.scoring.methods.weight import weight_scores
from onnxheadprune.errors import RefusedError
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from onnxheadprune.training.budget import parse_budget

WAYS = ("joint", "with layers", "uniform", "heads", "neurons", "layers", "magnitude", "random")

MULTIPLE = 8
"""How many neurons a block keeps is a multiple of this, as `prune` has it."""


def target_of(way: str, share: float, sites: ohp.Sites) -> dict[str, Any] | None:
    """The target that saves a share of the blocks' operations in some way, None where that way cannot save so much.

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
    return {"ratio": ratio, "units": kinds.get(way, (way,)), "min_heads": 0, "uniform": way == "uniform"}


def units_of(way: str, share: float, sites: ohp.Sites) -> dict[str, list[int]]:
    """The same share of every site: the units with the least weights, or random ones.

    Args:
        way: "magnitude" or "random".
        share: of the units of every site.
        sites: of the model.
    """
    random = np.random.default_rng(SEED)
    found = {}
    for site in (*sites, *sites.neurons):
        step = 1 if site.KIND.unit == "head" else MULTIPLE
        kept = max(step, round((1 - share) * site.num_units / step) * step)
        worth = random.random(site.num_units) if way == "random" else weight_scores(site)
        gone = np.sort(np.argsort(worth, kind="stable")[: site.num_units - kept])
        found[site.key] = [int(unit) for unit in gone]
    return found


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.argument("tokenizer", type=click.Path(path_type=Path, exists=True))
@click.option("--fewer", type=float, multiple=True, default=(1.4, 2.0), show_default=True)
@click.option("--way", "ways", type=click.Choice(WAYS), multiple=True, default=WAYS)
@click.option("--recover", metavar="N|Ts", help="Also train what is left of the first way, for so long.")
@click.option("--time", metavar="T", help="Only whole calls of the ways that take so long.")
@click.option("--sentences", "count", type=int, default=CALIBRATION, help="Of those calls.")
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(
    model: Path,
    tokenizer: Path,
    fewer: Sequence[float],
    ways: Sequence[str],
    recover: str | None,
    time: str | None,
    count: int,
    output: Path | None,
) -> None:
    """Prints a Markdown table: cosine / overlap / rank correlation, and the seconds it took."""
    sentences, proto = corpus(), onnx.load(model)
    inputs = graph_inputs(view_of(proto))

    def feeds(chosen: Sequence[str]) -> ohp.Calibration:
        return sentence_feeds(chosen, tokenizer, inputs)

    data, judge = feeds(sentences[:CALIBRATION]), Judge(proto, feeds(sentences[-HELD_OUT:]))
    click.echo(
        f"{date.today()}, {platform.processor() or platform.machine()}, onnxruntime {onnxruntime.__version__}"
    )
    click.echo("\n| way | operations saved | cosine / overlap / rank | time |\n|---|---|---|---|")
    sites = ohp.inspect(model)
    for times in fewer:
        share = 1 - 1 / times
        for way in ways:
            blind = way in ("magnitude", "random")
            target = None if blind else target_of(way, share, sites)
            units = units_of(way, share, sites) if blind else None
            if time is not None and target is not None:
                timed(judge, model, (tokenizer, count), target, time, share)
                continue
            budgets = [None, recover] if recover is not None and way == ways[0] else [None]
            for budget in budgets if target or units else ():
                since = clocks()
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        made = ohp.prune(
                            model,
                            Path(folder, "pruned.onnx"),
                            heads=units,
                            **(target or {}),
                            data=data,
                            provider="cpu",
                            refit=True,
                            recover=budget,
                        )
                    except RefusedError as error:
                        click.echo(f"| {way} | {share:.0%} | {error} | |")
                        continue
                    trained = "" if budget is None else f", trained for {parse_budget(budget)}"
                    judge.judge(f"{way}, {times:g}x{trained}", share, made.model, since)
    if output is not None:
        output.write_text(json.dumps(judge.rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
