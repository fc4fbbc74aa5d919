"""More data than is held in memory: a training reads the rest, all of it once before any comes again."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxheadprune import Calibration, UsageError, prune
from onnxheadprune.data.calibration import MOST_SAMPLES, More, calibration_data
from onnxheadprune.data.text import text_data
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from onnxheadprune.training.batches import Batches
from onnxheadprune.training.checkpoint import beside
from onnxheadprune.training.recover import MOST_JUDGES, split_for_recovery
from onnxheadprune.training.training import LEARNED_BETWEEN
from tests.graphs import toys
from tests.training.trainings import HEADS, Stop

COUNT = MOST_SAMPLES + 3000
LETTERS = 16
"""Tokens of the toy that are not special."""


def numbered(number: int) -> list[int]:
    """Tokens that no other number has, in the toy's vocabulary: four digits of base 20, and special ones around."""
    digits = [number // LETTERS**place % LETTERS for place in range(4)]
    return [toys.FIRST, *(3 + digit for digit in digits), toys.LAST]


def words(number: int) -> str:
    return " ".join(f"w{token}" for token in numbered(number)[1:-1])


def tokenizer(folder: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({f"w{index}": index for index in range(toys.VOCABULARY)}, "w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single=f"w{toys.FIRST} $A w{toys.LAST}",
        special_tokens=[
            (f"w{toys.FIRST}", toys.FIRST),
            (f"w{toys.LAST}", toys.LAST),
        ],
    )
    made.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def text(folder: Path, name: str, count: int = COUNT, step: int = 1) -> Any:
    path = folder / name
    rows = [words(number) for number in range(count)]
    if name.endswith("parquet"):
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"text": rows}), path)
    else:
        lines = rows if name.endswith("txt") else [json.dumps({"text": row}) for row in rows]
        path.write_text("\n".join(lines), encoding="utf-8")
    inputs = graph_inputs(view_of(toys.encoder()))
    return text_data(path, tokenizer(folder), [replace(item, dims=item.dims[::step]) for item in inputs])


def arrays(folder: Path, name: str) -> Any:
    ids = np.array([numbered(number) for number in range(COUNT)])
    whole = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    if name == "arrays":
        return whole
    parts = [
        {key: array[start : start + 48] for key, array in whole.items()} for start in range(0, COUNT, 48)
    ]
    if name == "feeds":
        return parts
    (folder / "feeds").mkdir()
    for number, part in enumerate(parts):
        np.savez(folder / "feeds" / f"{number:05}.npz", **part)
    return str(folder / "feeds")


FORMS: dict[str, Callable[[Path, str], Any]] = {
    "lines.txt": text,
    "rows.jsonl": text,
    "rows.parquet": text,
    "arrays": arrays,
    "feeds": arrays,
    "folder": arrays,
}


def read(form: str, folder: Path) -> Calibration:
    return calibration_data(FORMS[form](folder, form), view_of(toys.encoder()))


def seen(feeds: Any) -> list[tuple[int, ...]]:
    return [tuple(row) for feed in feeds for row in feed["input_ids"].tolist()]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_all_that_is_there_is_seen_once_and_a_sample_of_it_held(form: str, tmp_path: Path) -> None:
    data = read(form, tmp_path)
    held = seen(data.feeds)
    assert MOST_SAMPLES <= len(held) < MOST_SAMPLES + 64 and data.total == COUNT and data.more is not None
    # Spread evenly: each tenth of the data has a tenth of the sample.
    known = {tuple(numbered(number)): number for number in range(COUNT)}
    tenths = np.bincount([10 * known[row] // COUNT for row in held], minlength=10)
    assert tenths.min() > 0.8 * len(held) / 10
    learn, judges = split_for_recovery(data)
    assert judges.count == MOST_JUDGES
    batches, random = Batches(learn), np.random.default_rng(0)
    once = [row for number in range(batches.rounds) for row in seen(batches.round(number, random))]
    assert sorted(once + seen(judges.feeds)) == sorted(known)
    # What comes again is spliced: rows that are in no file.
    again = seen(batches.round(batches.rounds, random))
    assert len(set(again)) < len(again) or set(again) - set(known)
    assert seen(batches.round(3, np.random.default_rng(5))) == seen(
        Batches(learn).round(3, np.random.default_rng(5))
    )


def test_what_is_left_out_is_counted_once() -> None:
    """Chunks are read in the background, the next one while this one is learned from, and again in later rounds."""
    view = view_of(toys.encoder())
    data = calibration_data(toys.sentences(), view)
    readers = set[str]()

    def read(places: Sequence[int]) -> Any:
        readers.add(threading.current_thread().name)
        feeds = [feed for place in places for feed in toys.sentences(count=8, seed=place)]
        return calibration_data(feeds, view).samples, {"of more than 8 tokens": len(places)}

    batches = Batches(replace(data, more=More(range(5), read, 45, 1), left_out={"without a token": 2}))
    random = np.random.default_rng(0)
    for number in range(2 * batches.rounds):
        assert list(batches.round(number, random))
    assert batches.left_out == {"of more than 8 tokens": 5, "without a token": 2}
    assert readers == {threading.current_thread().name, "onnxheadprune_0"}


# Bad data


def test_samples_that_are_all_the_same_are_refused_before_any_work(tmp_path: Path) -> None:
    said: list[str] = []
    ids = np.array([numbered(7)] * 400)
    with pytest.raises(UsageError, match=r"all 400 samples of the given data are the same"):
        prune(
            toys.encoder(layers=1),
            ratio=0.25,
            data={"input_ids": ids, "attention_mask": np.ones_like(ids)},
            provider="cpu",
            recover=1,
            progress=lambda what, done, of: said.append(what),
        )
    assert said == ["reading the model"]


# Each stage as much as pays


def trained(folder: Path, output: Path | None = None, **given: Any) -> Any:
    ids = np.array([numbered(number) for number in range(COUNT)])
    data = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    settings: dict[str, Any] = {
        "recover": 0.5,
        "refit": False,
        "provider": "cpu",
        "validate": False,
    }
    return prune(toys.encoder(layers=1), output, heads={0: [1, 2]}, data=data, **{**settings, **given})


@pytest.mark.slow
def test_a_training_on_much_data_sees_none_of_it_twice_and_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.onnx", tmp_path / "parts.onnx"
    found = trained(tmp_path, whole).chosen.recovery
    assert found.samples == COUNT - MOST_JUDGES and found.held_out == MOST_JUDGES
    assert found.used <= 16 * found.steps and found.used < found.samples
    looks = [item.step for item in found.curve]
    assert len(looks) > 2 and looks[-1] == found.steps
    assert all(16 * (later - step) >= LEARNED_BETWEEN * MOST_JUDGES for step, later in pairwise(looks[:-1]))
    document = found.to_dict()
    assert not document["seen_more_than_once"] and document["would_help"] in ("more time", "neither")
    with pytest.raises(MemoryError):
        trained(tmp_path, parts, progress=Stop(MemoryError, found.steps - 40))
    again = trained(tmp_path, parts, resume=True).chosen.recovery
    assert again.resumed and again.used == found.used
    assert parts.read_bytes() == whole.read_bytes() and not beside(parts).exists()


# A time for the whole call


@pytest.mark.slow
def test_a_call_keeps_to_its_time(tmp_path: Path) -> None:
    began = time.monotonic()
    feeds = [feed for seed in range(8) for feed in toys.sentences(seed=seed)]
    made = prune(toys.encoder(), heads=HEADS, data=feeds, refit=True, provider="cpu", time="8.0s")
    took = time.monotonic() - began
    assert made.chosen is not None and made.chosen.recovery is not None
    assert made.chosen.recovery.steps > 0 and 0.8 * 8 < took < 1.1 * 8 + 1
    small = prune(toys.encoder(), ratio=0.25, data=feeds, provider="cpu", time="0.01s")
    assert small.chosen is not None and small.chosen.drift is not None
