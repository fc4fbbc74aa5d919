"""Makes a folder as exporters write them, of a tiny BERT: `python sample_models/make_folder.py OUT`.

The folder has a model, its configuration and a tokenizer; beside it stands a text of its words, OUT.txt. What clients
load has this form; only the weights are not worth loading.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

HERE = Path(__file__).parent
MODEL = HERE / "tiny" / "bert-torchscript-sdpa.onnx"
SEED, LINES, WORDS = 0, 192, 62
CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "max_position_embeddings": 24,
    "vocab_size": 64,
}
"""As the model was made: `tiny_configs.py`."""


def tokenizer() -> Tokenizer:
    """One id for each of the words w0, w1, ..., as many as the model has."""
    vocabulary = {"[PAD]": 0, "[UNK]": 1} | {f"w{number}": number + 2 for number in range(WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    return made


def text() -> str:
    """Lines of 4 to 20 words."""
    chosen = random.Random(SEED)
    lines = [[f"w{chosen.randrange(WORDS)}" for _ in range(chosen.randint(4, 20))] for _ in range(LINES)]
    return "\n".join(map(" ".join, lines)) + "\n"


def main() -> None:
    """Writes the folder and the text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True)
    shutil.copyfile(MODEL, out / "model.onnx")
    (out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    tokenizer().save(str(out / "tokenizer.json"))
    out.with_suffix(".txt").write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
