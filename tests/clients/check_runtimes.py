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

OURS = 1e-4
"""Of the largest number, for evaluators that compute in float32."""
THEIRS = 1e-2
"""For OpenVINO, which may round more coarsely by default."""


def main() -> None:
    """Runs every cut on every evaluator."""
    with tempfile.TemporaryDirectory() as place:
        for pruned in pruned_folders(Path(place), "openvino"):
            pruned.like(ReferenceEvaluator(onnx.load(pruned.model)).run(None, dict(pruned.feed))[0], OURS)
            tell(f"onnx.reference {version('onnx')}", pruned.name, "outputs", [])
            compiled = openvino.Core().compile_model(str(pruned.model), "CPU")
            pruned.like(next(iter(compiled(dict(pruned.feed)).values())), THEIRS)
            tell(f"OpenVINO {version('openvino')}", pruned.name, "outputs", [])


if __name__ == "__main__":
    main()
