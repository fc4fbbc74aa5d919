"""What cuts of different size cost on the digits ViT: held-out accuracy, weights, file size, latency.

    python benchmarks/digits.py [--most 20]

Heads are chosen greedily on the calibration images, by how little the logits move when one more goes; the
accuracy is that of the held-out images, which the choice never saw. Latency is the processor time of the fastest run,
as a ratio to the original's, both in turn on one thread of one process.
"""

from __future__ import annotations

import json
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
from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.sites.find import sites_of
from onnxheadprune.model.storage.tensors import stored_size
from onnxheadprune.operators import view_of

SAMPLES = Path(__file__).parents[1] / "sample_models"
MODEL = SAMPLES / "digits_vit.onnx"
Cut = dict[int, list[int]]
Images = npt.NDArray[np.float32]


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A quiet CPU session with all optimizations on, on one thread: others on the machine disturb two of them more."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def logits(model: onnx.ModelProto, images: Images) -> npt.NDArray[np.float32]:
    """The model's logits, `[images, 10]`."""
    result: Any = session(model).run(None, {"images": images})[0]
    return np.asarray(result)


def with_head(cut: Cut, site: int, head: int) -> Cut:
    """The cut with one more head."""
    return {**cut, site: sorted([*cut.get(site, []), head])}


def next_head(cut: Cut, images: Images, target: npt.NDArray[np.float32], heads: dict[int, int]) -> Cut:
    """The cut with the head that moves the logits least; at least one head stays in every site."""
    view = view_of(onnx.load(MODEL))
    sites = sites_of(view, MODEL.name)
    candidates = [
        with_head(cut, site, head)
        for site, count in heads.items()
        for head in range(count)
        if head not in cut.get(site, []) and len(cut.get(site, [])) < count - 1
    ]
    moved = [
        float(np.square(logits(masked_reference(view, sites, c), images) - target).mean()) for c in candidates
    ]
    return candidates[int(np.argmin(moved))]


def latency_ratio(
    before: onnx.ModelProto, after: onnx.ModelProto, images: Images, rounds: int = 200
) -> float:
    """The fastest run of `after` over that of `before`, measured in turn, in processor time: others do not count."""
    sessions = [session(before), session(after)]
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for runner, record in zip(sessions, times, strict=True):
            start = time.thread_time()
            runner.run(None, {"images": images})
            record.append(time.thread_time() - start)
    return min(times[1]) / min(times[0])


@click.command()
@click.option("--most", default=20, show_default=True, help="The largest cut.")
@click.option("--step", default=4, show_default=True, help="Report every STEP heads.")
def main(most: int, step: int) -> None:
    """Print one JSON document with a row per cut."""
    test, calibration = np.load(SAMPLES / "digits_test.npz"), np.load(SAMPLES / "digits_calibration.npz")
    original = onnx.load(MODEL)
    heads = {site.index: site.num_heads for site in inspect(MODEL)}
    target = logits(original, calibration["images"])
    rows: list[dict[str, Any]] = []
    cut: Cut = {}
    for removed in range(1, most + 1):
        cut = next_head(cut, calibration["images"], target, heads)
        if removed % step:
            continue
        result = prune(MODEL, heads=cut, provider="cpu")
        accuracy = float((logits(result.model, test["images"]).argmax(1) == test["labels"]).mean())
        rows.append(
            {
                "heads_removed": removed,
                "heads": {str(site): cut[site] for site in sorted(cut)},
                "accuracy": round(accuracy, 4),
                "weights": result.after.elements,
                "kilobytes": round(result.model.ByteSize() / 1000),
                "latency_ratio_batch_64": round(
                    latency_ratio(original, result.model, test["images"][:64]), 2
                ),
                "validation": None if result.validation is None else result.validation.verdict,
            }
        )
    base = float((logits(original, test["images"]).argmax(1) == test["labels"]).mean())
    document = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}",
        "original": {
            "heads": sum(heads.values()),
            "accuracy": round(base, 4),
            "weights": stored_size(original).elements,
            "kilobytes": MODEL.stat().st_size // 1000,
        },
        "rows": rows,
    }
    click.echo(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
