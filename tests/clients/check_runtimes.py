"""OpenVINO and onnx's reference evaluator run pruned folders, and give what the masked original gives."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path

import onnx
import openvino
from environment import tell
from onnx.reference import ReferenceEvaluator
from samples import pruned_folders

CLOSE = 1e-4
"""Of the largest number, for evaluators that compute in float32."""
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
"""By default OpenVINO rounds to bfloat16 on processors that have it, of unpruned models as well."""


def main() -> None:
    """Runs every cut on every evaluator."""
    with tempfile.TemporaryDirectory() as place:
        for pruned in pruned_folders(Path(place), "openvino"):
            pruned.like(ReferenceEvaluator(onnx.load(pruned.model)).run(None, dict(pruned.feed))[0], CLOSE)
            tell(f"onnx.reference {version('onnx')}", pruned.name, "outputs", [])
            compiled = openvino.Core().compile_model(str(pruned.model), "CPU", FLOAT32)
            pruned.like(next(iter(compiled(dict(pruned.feed)).values())), CLOSE)
            tell(f"OpenVINO {version('openvino')}", pruned.name, "outputs, in float32", [])


if __name__ == "__main__":
    main()
