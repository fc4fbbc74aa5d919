"""The sample models as folders, pruned by one command each, and what the pruned ones must give."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from cuts import Cut, prune, prune_folder
from environment import ROOT

from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import analyse

ROWS = 4
SHOWS = 1e-2
"""How far a cut moves the outputs at least, as a share of the largest number: far more than clients may differ by."""
VIT, GPT = (
    ("digits ViT", "digits_vit.onnx", "digits_test.npz"),
    ("character GPT", "char_gpt.onnx", "char_gpt_test.npz"),
)
CUTS: tuple[tuple[tuple[str, str, str], str, Cut | None], ...] = (
    (VIT, "uneven", Cut(heads={0: (1, 3), 2: (0, 1, 2, 5)})),
    (VIT, "uniform", Cut(heads={0: (1, 3), 1: (0, 2), 2: (4, 5), 3: (1, 2)})),
    (VIT, "refitted", None),
    (VIT, "neurons", Cut(neurons={0: range(64), 2: range(40, 128)})),
    (VIT, "a layer", Cut(layers=(1,))),
    (GPT, "uneven", Cut(heads={0: (1,), 1: (0, 2)})),
    (GPT, "heads, neurons and a layer", Cut(heads={0: (1,)}, neurons={3: range(128)}, layers=(2,))),
)
"""Of each sample model; None is a quarter of the heads, refitted."""


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


def pruned_folders(
    place: Path, client: str, *options: str, among: Container[str] | None = None
) -> Iterator[Pruned]:
    """Cuts, from folder to folder.

    Args:
        place: where folders are made.
        client: as `--runtime` takes it.
        options: more of `prune`.
        among: names of models and cuts; None means all.
    """
    for number, ((title, file, data), name, cut) in enumerate(CUTS):
        if among is not None and f"{title}, {name}" not in among:
            continue
        folder, out = place / f"{number}", place / f"{number} pruned"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes((ROOT / "sample_models" / file).read_bytes())
        if cut is None:
            target = ("--ratio", "0.25", "--data", ROOT / "sample_models" / data)
            prune(folder, "-o", out, *target, "--runtime", client, *options)
        else:
            prune_folder(folder, out, cut, client, options)
        with np.load(ROOT / "sample_models" / data) as arrays:
            feed = {item.name: arrays[item.name][:ROWS] for item in _session(out / "model.onnx").get_inputs()}
        original = _first(folder / "model.onnx", feed)
        # What is refitted equals no masked original; that it equals the refitted one is proven before it is written.
        wanted = _first(out / "model.onnx" if cut is None else _masked(folder / "model.onnx", cut), feed)
        assert np.abs(wanted - original).max() > SHOWS * np.abs(original).max(), "the cut shows nowhere"
        yield Pruned(f"{title}, {name}", out / "model.onnx", feed, wanted)


def _first(model: Path | bytes, feed: Mapping[str, Any]) -> Any:
    """The first output."""
    return _session(model).run(None, feed)[0]


def _masked(model: Path, cut: Cut) -> bytes:
    planning = analyse(onnx.load(model), cut.spec, "the original")
    return masked_reference(planning.view, planning.touched, planning.heads).SerializeToString()


def _session(model: Path | bytes) -> Any:
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
