"""OpenVINO and onnx's reference evaluator run pruned models, and give what the masked original gives."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
from environment import ROOT, tell
from onnx.reference import ReferenceEvaluator

from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.sites.find import sites_of, view_of

CASES = {
    "digits ViT, uneven": ("digits_vit.onnx", {0: (1, 3), 2: (0, 1, 2, 5)}, "digits_test.npz"),
    "character GPT, uneven": ("char_gpt.onnx", {0: (1,), 1: (0, 2)}, "char_gpt_test.npz"),
}
OURS = 1e-4
"""Of the largest number, for evaluators that compute in float32."""
THEIRS = 1e-2
"""For OpenVINO, which may round more coarsely by default."""


def main() -> None:
    """Runs every case on every evaluator."""
    for name, (file, heads, data) in CASES.items():
        with tempfile.TemporaryDirectory() as place:
            _check(name, ROOT / "sample_models" / file, heads, ROOT / "sample_models" / data, Path(place))


def _check(name: str, model: Path, heads: dict[int, tuple[int, ...]], data: Path, place: Path) -> None:
    pruned = place / "pruned.onnx"
    spec = " ".join(f"{site}:{','.join(map(str, gone))}" for site, gone in heads.items())
    words = [sys.executable, "-m", "onnxheadprune", "prune", str(model), "-o", str(pruned), "--heads", spec]
    subprocess.run(words, check=True)
    view = view_of(onnx.load(model))
    masked = masked_reference(view, sites_of(view, "the original"), heads)
    session = onnxruntime.InferenceSession(masked.SerializeToString(), providers=["CPUExecutionProvider"])
    with np.load(data) as arrays:
        feed = {item.name: arrays[item.name][:4] for item in session.get_inputs()}
    wanted = session.run(None, feed)[0]
    scale = np.abs(wanted).max()
    found = ReferenceEvaluator(onnx.load(pruned)).run(None, feed)[0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=OURS * scale)
    tell(f"onnx.reference {version('onnx')}", name, "outputs", [])
    compiled = openvino.Core().compile_model(str(pruned), "CPU")
    found = next(iter(compiled(feed).values()))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=THEIRS * scale)
    tell(f"OpenVINO {version('openvino')}", name, "outputs", [])


if __name__ == "__main__":
    main()
