"""Fused against unfused, pruned against not: latency ratios side by side.

    python benchmarks/fusion.py MODEL... [--share 0.5] [--provider auto] [--batch 1,8] [--seq 128] [--budget 20]

Every model is measured in six forms that take turns in one process: as it is, with `--fuse contrib` and with
`--fuse onnx`, and the same three with a share of every site's heads removed. Ratios are to the model as it is;
"fused / unfused" compares forms of equal width. Forms that cannot be made are left out, with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from onnxheadprune import bench, plan_pruning
from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.benchmarking.result import Benchmark
from onnxheadprune.edit.apply import apply_plan
from onnxheadprune.errors import RefusedError
from onnxheadprune.fusion.fuse import fuse
from onnxheadprune.fusion.result import FuseMode
from onnxheadprune.model.load import LoadedModel, open_model

FUSED: tuple[FuseMode, ...] = ("contrib", "onnx")


def numbers(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """`1,8` as numbers."""
    return None if text is None else tuple(int(part) for part in text.split(","))


def heads_to_remove(path: Path, share: float) -> dict[int, list[int]]:
    """The first groups of every site, a share of them, at least one left."""
    chosen = {}
    for site in inspect(path):
        count = min(round(share * len(site.groups)), len(site.groups) - 1)
        gone = [head for group in site.groups[:count] for head in group]
        if gone and site.removable:
            chosen[site.index] = gone
    return chosen


def forms(path: Path, share: float) -> Iterator[tuple[str, LoadedModel | str]]:
    """Each form of a model by name, or why it cannot be made."""
    whole = open_model(path)
    cut = apply_plan(plan_pruning(whole, heads=heads_to_remove(path, share)), whole.proto)
    for width, proto in (("whole", whole.proto), ("pruned", cut)):
        yield f"{width} unfused", LoadedModel(proto, f"{width} unfused")
        for mode in FUSED:
            name = f"{width} {mode}"
            try:
                made, fusion = fuse(proto, mode, path.name)
            except RefusedError as refused:
                yield name, str(refused)
                continue
            yield name, LoadedModel(made, name) if fusion.made else str(fusion)


def rows(measured: Benchmark, names: list[str]) -> Iterator[dict[str, Any]]:
    """One row per form and grid point."""
    for index, name in enumerate(names):
        for cell in measured.cells_of(index):
            row: dict[str, Any] = {"form": name, "point": cell.point.label, "p50_ms": 1e3 * cell.latency.p50}
            if cell.comparison is not None:
                row |= {"ratio": cell.comparison.ratio.to_dict(), "verdict": cell.comparison.verdict}
            base = f"{name.split()[0]} unfused"
            other = next(item for item in measured.cells_of(names.index(base)) if item.point == cell.point)
            row["fused_over_unfused"] = cell.latency.p50 / other.latency.p50
            yield row


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--share", default=0.5, show_default=True, help="Of the KV groups of every site to remove.")
@click.option("--provider", default="auto", show_default=True)
@click.option("--batch", default="1,8", callback=numbers, show_default=True)
@click.option("--seq", callback=numbers, help="128 where the model has a sequence.")
@click.option("--budget", default=20.0, show_default=True, help="Seconds per grid point, for all forms.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the rows as JSON.")
def main(
    models: tuple[Path, ...],
    share: float,
    provider: str,
    batch: tuple[int, ...] | None,
    seq: tuple[int, ...] | None,
    budget: float,
    out: Path | None,
) -> None:
    """Measures MODELS fused and unfused, pruned and not."""
    report: dict[str, Any] = {}
    for path in models:
        made = dict(forms(path, share))
        kept = {name: form for name, form in made.items() if isinstance(form, LoadedModel)}
        measured = bench(
            *kept.values(), provider=provider, batch=batch, seq=seq, time_budget=budget, memory=False
        )
        found = list(rows(measured, list(kept)))
        report[path.name] = {
            "rows": found,
            "left_out": {name: form for name, form in made.items() if isinstance(form, str)},
            "operators": {item.name: dict(item.operators) for item in measured.models},
            "machine": dict(measured.machine),
            "provider": measured.provider.to_dict(),
            "versions": dict(measured.versions),
        }
        click.echo(f"\n{path.name} on {measured.provider.label}\n")
        click.echo("| form | size | latency | ratio to the original | fused / unfused | verdict |")
        click.echo("|---|---|---|---|---|---|")
        for row in found:
            ratio = row.get("ratio")
            spelled = (
                "1" if ratio is None else f"{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"
            )
            click.echo(
                f"| {row['form']} | {row['point']} | {row['p50_ms']:.2f} ms | {spelled} |"
                f" {row['fused_over_unfused']:.3f} | {row.get('verdict', '')} |"
            )
        for name, reason in report[path.name]["left_out"].items():
            click.echo(f"{name}: {reason}")
    if out is not None:
        out.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
