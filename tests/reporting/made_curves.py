"""Curves with known numbers, as the Python API gives them, to make pictures and notebooks of."""

from __future__ import annotations

from onnxheadprune import Curve, CurvePoint
from tests.benchmarking.made_results import speed_up

LONG = "/data/models/sentence-transformers/all-MiniLM-L6-v2/onnx"


def curve_result(name: str = f"{LONG}/model.onnx", *, labels: bool = True, counted: str = "heads") -> Curve:
    """Eight cuts; the first brings no measurable difference."""
    drifts = (0.0, 0.0008, 0.0016, 0.003, 0.005, 0.009, 0.028, 0.11)
    points = []
    for step, drift in enumerate(drifts):
        factor = 1 + 0.04 * step
        speed = speed_up((0.97 / factor, 1 / factor, 1.04 / factor)) if step else None
        points.append(
            CurvePoint(
                step / 10,
                7 * step,
                {"0": list(range(step))} | ({} if counted == "heads" else {"ffn.3": list(range(8 * step))}),
                drift,
                0.9867 - drift if labels else None,
                1.0 if speed is None else speed.value,
                speed,
                22_713_216 - 688_000 * step,
                None if counted == "heads" else 0.0971 * step,
            )
        )
    return Curve(name, 72, "kl", tuple(points), 5, 22_713_216, counted)
