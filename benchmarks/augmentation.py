"""Whether augmentation pays: the digits ViT with few pictures, trained on them as they are, mirrored, shifted, or both.

    python benchmarks/augmentation.py [--pictures 64,256] [--ratio 0.6] [--epochs 10] [--seeds 3]

Heads are chosen on the pictures, the rest is refitted and trained on all of them but sixteen; accuracy and drift (mean
Kullback-Leibler divergence from the original's outputs, nats) are those of the 450 test images, which neither the
original's training nor a recovery saw. A seed picks the pictures and decides their order and how they are moved.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import date
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from digits import MODEL, SAMPLES, logits

from onnxheadprune import Budget, PruneResult, prune
from onnxheadprune.selection.wishes import Wish

FEED = 16
WAYS = {"nothing": "", "crops": "crops", "flips": "flips", "both": "flips,crops"}
Floats = npt.NDArray[np.float64]
Feeds = list[dict[str, npt.NDArray[Any]]]


def picked(count: int, seed: int) -> Feeds:
    """So many of the calibration pictures, in feeds."""
    images = np.load(SAMPLES / "digits_calibration.npz")["images"]
    order = np.random.default_rng(seed).permutation(len(images))[:count]
    return [{"images": images[order[start : start + FEED]]} for start in range(0, count, FEED)]


def log_shares(scores: npt.NDArray[np.float32]) -> Floats:
    """Logarithms of the softmax."""
    shifted = scores.astype(np.float64) - scores.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def judged(result: PruneResult, test: Mapping[str, npt.NDArray[Any]], target: Floats) -> tuple[float, float]:
    """Accuracy and drift of a cut on the test images."""
    assert result.validation is not None and result.validation.passed
    scores = logits(result.model, test["images"])
    apart = (np.exp(target) * (target - log_shares(scores))).sum(axis=-1)
    return float((scores.argmax(1) == test["labels"]).mean()), float(apart.mean())


def starts(result: PruneResult) -> bool:
    """Whether no step of a training was better on its held-out pictures than the refit that it started from."""
    recovery = None if result.chosen is None else result.chosen.recovery
    return recovery is not None and not recovery.best


def trained(feeds: Feeds, seed: int, ratio: float, epochs: float) -> dict[str, PruneResult]:
    """What each way makes of one choice of heads, and what the refit alone makes of it."""
    plain = prune(MODEL, wish=Wish(ratio=ratio), data=feeds, provider="cpu", seed=seed)
    assert plain.chosen is not None
    found = {"refitted": plain}
    for name, ways in WAYS.items():
        found[name] = prune(
            MODEL,
            plain.chosen.selection.spec,
            data=feeds,
            compensate=True,
            recover=Budget(epochs=epochs),
            augment=ways.split(",") if ways else (),
            provider="cpu",
            seed=seed,
        )
        click.echo(f"{len(feeds) * FEED} pictures, seed {seed}, {name}", err=True)
    return found


@click.command()
@click.option("--pictures", default="64,256", show_default=True, help="How many there are to learn from.")
@click.option("--ratio", default=0.6, show_default=True, help="Share of heads to remove.")
@click.option("--epochs", default=10.0, show_default=True, help="Of each training.")
@click.option("--seeds", default=3, show_default=True, help="Trainings of each kind.")
def main(pictures: str, ratio: float, epochs: float, seeds: int) -> None:
    """Print one JSON document with a row per number of pictures and way, over the seeds."""
    test = np.load(SAMPLES / "digits_test.npz")
    target = log_shares(logits(onnx.load(MODEL), test["images"]))
    rows: list[dict[str, Any]] = []
    for count in map(int, pictures.split(",")):
        results = [trained(picked(count, seed), seed, ratio, epochs) for seed in range(seeds)]
        for name in results[0]:
            found = np.array([judged(result[name], test, target) for result in results])
            accuracy, drift = found.mean(axis=0)
            row = {
                "pictures": count,
                "augment": name,
                "accuracy": round(float(accuracy), 4),
                "drift": round(float(drift), 5),
                "starts_kept": sum(starts(result[name]) for result in results),
                "each": [[round(right, 4), round(apart, 5)] for right, apart in found.tolist()],
            }
            rows.append(row)
            click.echo(str(row), err=True)
    document = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}",
        "rows": rows,
    }
    click.echo(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
