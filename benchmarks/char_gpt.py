"""What cuts cost a decoder: held-out perplexity of the character GPT, with and without compensation.

    python benchmarks/char_gpt.py [--ratios 0.1,0.3] [--scores all] [--recover 10] [--fewer 1.3] [--calibration FILE]

Heads are chosen and weights refitted on `char_gpt_calibration.npz` alone; perplexity is that of
`char_gpt_test.npz`, text that neither training nor pruning saw. Every model went through validation. `--fewer 1.3`
takes heads and neurons together, to 1.3 times fewer operations in the blocks.
Prints a table to the terminal and one JSON document to stdout.
"""

from __future__ import annotations

import json
import math
import platform
import time
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from onnxheadprune import inspect, prune
from onnxheadprune.choosing.scoring.score import score
from onnxheadprune.choosing.scoring.scores import HeadScores
from onnxheadprune.settings.registry import METHODS
from onnxheadprune.settings.units import DEFAULT_UNITS

SAMPLES = Path(__file__).parents[1] / "sample_models"
MODEL = SAMPLES / "char_gpt.onnx"
BATCH = 64
Losses = npt.NDArray[np.float64]


def losses(model: onnx.ModelProto) -> Losses:
    """Mean negative log-likelihood (nats per character) of every held-out window, [windows]."""
    test = np.load(SAMPLES / "char_gpt_test.npz")
    ids, labels = test["input_ids"], test["labels"]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = []
    for start in range(0, len(ids), BATCH):
        (logits,) = session.run(["logits"], {"input_ids": ids[start : start + BATCH]})
        shifted = logits.astype(np.float64)
        shifted -= shifted.max(axis=-1, keepdims=True)
        picked = np.take_along_axis(shifted, labels[start : start + BATCH, :, None], axis=-1)[..., 0]
        found.append((np.log(np.exp(shifted).sum(axis=-1)) - picked).mean(axis=-1))
    return np.concatenate(found)


def measured(
    ratio: float,
    base: Losses,
    data: Path,
    refit: bool,
    scores: HeadScores | None,
    recover: str | None = None,
    units: frozenset[str] = DEFAULT_UNITS,
) -> dict[str, Any]:
    """One cut: what `prune --ratio` makes of the model, and what it costs."""
    start, processor = time.perf_counter(), time.process_time()
    result = prune(
        MODEL,
        ratio=ratio,
        scores=scores,
        units=units,
        data=data,
        refit=refit,
        recover=recover,
        provider="cpu",
    )
    seconds, cpu = time.perf_counter() - start, time.process_time() - processor
    after = losses(result.model)
    # Windows are the same before and after, so their differences tell more than the two means.
    rise, error = (after - base).mean(), (after - base).std(ddof=1) / math.sqrt(len(base))
    assert result.chosen is not None and result.validation is not None
    return {
        "ratio": ratio,
        "choice": scores.method if scores else "measured paths",
        "compensate": refit,
        "recover": recover,
        "units": sorted(units),
        "heads_removed": sum(len(cut.removed) for cut in result.plan.cuts),
        "heads": result.chosen.selection.spec,
        "perplexity": round(math.exp(after.mean()), 4),
        "worse_percent": round(100 * math.expm1(rise), 2),
        "standard_error": round(100 * math.exp(rise) * error, 2),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "validation": result.validation.verdict,
    }


def show(row: dict[str, Any]) -> None:
    way = f"trained {row['recover']}" if row["recover"] else "refitted" if row["compensate"] else "as it is"
    click.echo(
        f"{row['ratio']:5.0%} {row['heads_removed']:3} heads  {row['choice']:15}"
        f" {way:11} perplexity {row['perplexity']:7.3f}"
        f" {row['worse_percent']:+7.2f} % +- {row['standard_error']:.2f}  {row['validation']}, {row['seconds']} s,"
        f" {row['cpu_seconds']} CPU-s",
        err=True,
    )


def chosen_methods(spec: str) -> list[str]:
    """Names of scoring methods; `all` means every one.

    Raises:
        click.BadParameter: if one is unknown.
    """
    names = list(METHODS) if spec == "all" else [name for name in spec.split(",") if name]
    for name in names:
        if name not in METHODS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(METHODS)}")
    return names


@click.command()
@click.option("--ratios", default="0.1,0.2,0.3,0.4,0.5", show_default=True, help="Shares of heads to remove.")
@click.option(
    "--scores", default="", metavar="M,M", help="Also choose by these scores; `all` for every method."
)
@click.option("--recover", multiple=True, metavar="N|Ts", help="Also train what is left, for so long.")
@click.option(
    "--fewer", type=float, multiple=True, help="Also heads and neurons, to so many times fewer operations."
)
@click.option(
    "--calibration",
    type=click.Path(exists=True, path_type=Path),
    default=SAMPLES / "char_gpt_calibration.npz",
    help="Data to choose and refit with.",
)
def main(
    ratios: str,
    scores: str,
    recover: tuple[str, ...],
    fewer: tuple[float, ...],
    calibration: Path,
) -> None:
    """Print one JSON document with a row per cut."""
    base = losses(onnx.load(MODEL))
    choices: list[HeadScores | None] = [None]
    for method in chosen_methods(scores):
        data = None if method == "weight" else str(calibration)
        choices.append(score(MODEL, method=method, data=data, provider="cpu"))
    rows = []
    for choice in choices:
        for compensate in (True, False):
            for ratio in ratios.split(","):
                rows.append(measured(float(ratio), base, calibration, compensate, choice))
                show(rows[-1])
    for ratio in ratios.split(","):
        for length in recover:
            rows.append(measured(float(ratio), base, calibration, True, None, recover=length))
            show(rows[-1])
    for times in fewer:
        for length in (None, *recover):
            both = frozenset({"heads", "neurons"})
            share = 1 - 1 / times
            rows.append(measured(share, base, calibration, True, None, recover=length, units=both))
            show(rows[-1])
    document = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, onnx {onnx.__version__},"
        f" onnxruntime {onnxruntime.__version__}",
        "original": {
            "heads": sum(site.num_heads for site in inspect(MODEL)),
            "perplexity": round(math.exp(base.mean()), 4),
            "held_out_windows": len(base),
        },
        "rows": rows,
    }
    click.echo(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
