"""Makes a folder with a small encoder, in the environment of Optimum. Others prune it and load it.

Argument: a place, which gets `folder` (the export with its tokenizer, and a folder as sentence-transformers has), the
file `lines.txt`, and `wanted.npz`: the tokens of these lines, and what the PyTorch model gives for them, with what each
cut removes silenced, and without.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cuts
import numpy as np
import tiny_hf
import torch
from lines import LINES, written
from optimum.exporters.onnx import main_export
from transformers import AutoTokenizer

ORIGINAL = "original"


def main(place: Path) -> None:
    """Makes everything."""
    tiny_hf.saved(tiny_hf.bert, place / "torch")
    folder = place / "folder"
    main_export(str(place / "torch"), output=str(folder), task="feature-extraction", do_validation=False)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 32}')
    written(place)
    tokens = AutoTokenizer.from_pretrained(folder)(LINES, padding=True, return_tensors="pt")
    found = {name: tokens[name].numpy() for name in ("input_ids", "attention_mask")}
    for name, cut in {ORIGINAL: cuts.Cut(), **cuts.BERT}.items():
        model = tiny_hf.saved(tiny_hf.bert, place / "again")
        tiny_hf.silence_cut(model, cut, tiny_hf.BERT)
        with torch.no_grad():
            found[name] = model(**tokens)[0].numpy()
    np.savez(place / "wanted.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
