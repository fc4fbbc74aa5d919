"""The sample models as folders, pruned by one command each, and what the pruned ones must give."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from environment import ROOT

from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.sites.find import sites_of, view_of

ROWS = 4
VIT, GPT = (
    ("digits ViT", "digits_vit.onnx", "digits_test.npz"),
    ("character GPT", "char_gpt.onnx", "char_gpt_test.npz"),
)
CUTS: tuple[tuple[tuple[str, str, str], str, Mapping[int, tuple[int, ...]]], ...] = (
    (VIT, "uneven", {0: (1, 3), 2: (0, 1, 2, 5)}),
    (VIT, "uniform", {0: (1, 3), 1: (0, 2), 2: (4, 5), 3: (1, 2)}),
    (VIT, "refitted", {}),
    (GPT, "uneven", {0: (1,), 1: (0, 2)}),
)


@dataclass(frozen=True)
class Pruned:
    """A pruned folder.

    Attributes:
        name: of model and cut.
        model: the file in it.
        feed: inputs.
        wanted: the first output that they must give.
    """

    name: str
    model: Path
    feed: Mapping[str, Any]
    wanted: Any

    def like(self, found: Any, tolerance: float) -> None:
        """Whether a client gives it too.

        Args:
            found: the client's output.
            tolerance: as a share of the largest number.

        Raises:
            AssertionError: if it does not.
        """
        scale = np.abs(self.wanted).max()
        np.testing.assert_allclose(found, self.wanted, rtol=0, atol=tolerance * scale, err_msg=self.name)


def pruned_folders(place: Path, client: str, *options: str) -> Iterator[Pruned]:
    """Every cut, from folder to folder.

    Args:
        place: where folders are made.
        client: as `--for` takes it.
        options: more of `prune`.
    """
    for number, ((title, file, data), cut, heads) in enumerate(CUTS):
        folder, out = place / f"{number}", place / f"{number} pruned"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes((ROOT / "sample_models" / file).read_bytes())
        spec = " ".join(f"{site}:{','.join(map(str, gone))}" for site, gone in heads.items())
        wish = (
            ["--heads", spec] if heads else ["--ratio", "0.25", "--data", str(ROOT / "sample_models" / data)]
        )
        words = [sys.executable, "-m", "onnxheadprune", "prune", str(folder), "-o", str(out), *wish]
        subprocess.run([*words, "--for", client, *options], check=True)
        with np.load(ROOT / "sample_models" / data) as arrays:
            feed = {item.name: arrays[item.name][:ROWS] for item in _session(out / "model.onnx").get_inputs()}
        # What is refitted equals no masked original; that it equals the refitted one is proven before it is written.
        oracle = _masked(folder / "model.onnx", heads) if heads else out / "model.onnx"
        yield Pruned(f"{title}, {cut}", out / "model.onnx", feed, _session(oracle).run(None, feed)[0])


def _masked(model: Path, heads: Mapping[int, tuple[int, ...]]) -> bytes:
    view = view_of(onnx.load(model))
    return masked_reference(view, sites_of(view, "the original"), heads).SerializeToString()


def _session(model: Path | bytes) -> Any:
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
