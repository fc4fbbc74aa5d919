"""Every command of docs/choosing.md is run, on small models of the shapes that it speaks of."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.calibration_files import tokenizer
from tests.conftest import ROOT, Command
from tests.data.stepping import texts
from tests.graphs import pairs, toys

PAGE = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
BLOCKS = re.findall(
    r"^<!-- run by [^\n]* -->\n```sh\n(onnxheadprune .*?)^```$", PAGE, re.MULTILINE | re.DOTALL
)
LINES = [line for block in BLOCKS for line in block.splitlines()]


def furnish(place: Path) -> None:
    """The files that the page names."""
    random = np.random.default_rng(0)
    pairs.folder(place / "t5")
    pairs.folder(place / "whisper", features=True)
    (place / "gpt2").mkdir()
    onnx.save(toys.attention(cache=True, ids=True), place / "gpt2" / "model.onnx")
    tokenizer(place / "gpt2", toys.VOCABULARY)
    width = toys.HEADS * toys.HEAD_SIZE
    gpt2 = {"model_type": "gpt2", "n_head": toys.HEADS, "n_embd": width}
    (place / "gpt2" / "config.json").write_text(json.dumps(gpt2), encoding="utf-8")
    heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), toys.HEADS)
    whisper = {"model_type": "whisper", "d_model": width, "decoder_start_token_id": 2, **heads}
    (place / "whisper" / "config.json").write_text(json.dumps(whisper), encoding="utf-8")
    rows = texts(place / "lines.txt").read_text().splitlines()
    asked = (json.dumps({"question": row, "answer": row}) for row in rows)
    (place / "questions.jsonl").write_text("\n".join(asked), encoding="utf-8")
    tokens = random.integers(0, 19, (40, 7))
    sound = random.standard_normal((40, 6, toys.FEATURES)).astype(np.float32)
    np.savez(place / "speech.npz", input_features=sound, decoder_input_ids=tokens)
    np.savez(place / "tokens.npz", input_ids=tokens)
    if any("parquet" in line for line in LINES):
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            return
        parquet.write_table(pyarrow.table({"article": rows, "summary": rows[::-1]}), place / "pairs.parquet")


@pytest.mark.slow
def test_every_command_runs(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LINES and all(line.startswith("onnxheadprune ") for line in LINES)
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    for line in LINES:
        name, *arguments = shlex.split(line)[1:]
        if "pairs.parquet" in arguments and not Path("pairs.parquet").is_file():
            continue
        # What an earlier line has made makes room, unless this line reads it.
        for made in (Path("smaller"), Path("smaller.onnx")):
            if name == "prune" and str(made) in arguments and made.exists():
                shutil.rmtree(made) if made.is_dir() else made.unlink()
        outcome = command(name, *arguments)
        assert outcome.exit_code == 0, (line, outcome.stderr)
