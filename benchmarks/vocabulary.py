"""Quality and size of a smaller vocabulary: all-MiniLM-L6-v2 with 16,000 of 30,522 tokens.

    python benchmarks/vocabulary.py MODEL TOKENIZER [--size 16000] [-o results.json]

MODEL and tokenizer.json come from sample_models/export_minilm.py. Half of the sentences of quality.py choose the
tokens; 1,500 of the others are tokenized by the old and by the new tokenizer, and judged by the share of tokens that
are the same and by the cosine of the mean-pooled embeddings.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnxruntime
from cost import cost_of, program
from quality import HELD_OUT, corpus
from tokenizers import Tokenizer

import onnxheadprune as ohp

Array = npt.NDArray[Any]


def embeddings(folder: Path, sentences: list[str]) -> tuple[list[list[str]], Array]:
    """The tokens of each sentence, and its mean-pooled embedding."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    tokens, found = [], []
    for item in tokenizer.encode_batch(sentences):
        arrays = {
            "input_ids": [item.ids],
            "attention_mask": [[1] * len(item.ids)],
            "token_type_ids": [[0] * len(item.ids)],
        }
        (states, *_) = session.run(None, {name: np.array(arrays[name]) for name in names})
        tokens.append(item.tokens)
        found.append(states[0].mean(axis=0))
    return tokens, np.stack(found)


def minilm(model: Path, tokenizer: Path, size: int) -> dict[str, Any]:
    """The figures of one vocabulary."""
    sentences = corpus()
    half = len(sentences) // 2
    judged = sentences[half : half + HELD_OUT]
    with tempfile.TemporaryDirectory() as place:
        before, after, text = Path(place, "before"), Path(place, "after"), Path(place, "half.txt")
        before.mkdir()
        shutil.copy(model, before / "model.onnx")
        shutil.copy(tokenizer, before / "tokenizer.json")
        (before / "config.json").write_text(json.dumps({"vocab_size": 30522, "pad_token_id": 0}), "utf-8")
        text.write_text("\n".join(sentences[:half]), "utf-8")
        command = [
            "prune",
            before,
            "-o",
            after,
            "--vocab-size",
            size,
            "--data",
            text,
            "--no-validate",
            "--json",
        ]
        cost = cost_of(program(*command))
        document = json.loads(cost.output)
        old, new = embeddings(before, judged), embeddings(after, judged)
        same = sum(len(set(left) & set(right)) for left, right in zip(old[0], new[0], strict=True))
        cosines = [
            float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(old[1], new[1], strict=True)
        ]
        sizes = [(folder / "model.onnx").stat().st_size for folder in (before, after)]
        return {
            "sentences": len(judged),
            "size": size,
            "unchanged": same / sum(len(set(item)) for item in old[0]),
            "whole": sum(left == right for left, right in zip(old[0], new[0], strict=True)) / len(judged),
            "cosine": float(np.mean(cosines)),
            "worst_cosine": min(cosines),
            "megabytes": [size / 1e6 for size in sizes],
            "chosen_on": document["spelling"],
            "seconds": cost.cpu,
        }


@click.command(help=__doc__)
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.argument("tokenizer", type=click.Path(path_type=Path, exists=True))
@click.option("--size", default=16000, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(model: Path, tokenizer: Path, size: int, output: Path | None) -> None:
    """Print the figures as JSON."""
    content = json.dumps(minilm(model, tokenizer, size) | {"version": ohp.__version__}, indent=2)
    if output is not None:
        output.write_text(content, "utf-8")
    click.echo(content)


if __name__ == "__main__":
    main()
