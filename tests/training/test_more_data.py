"""More data than is held in memory: a training reads the rest, all of it once before any comes again."""

from __future__ import annotations

import json
import pickle
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxheadprune import Calibration, UsageError, prune
from onnxheadprune.choosing.targets import Requirements
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.data.images import DAMAGED, image_feeds
from onnxheadprune.data.lines import BLOCK, Reading, Texts
from onnxheadprune.data.more import MOST_SAMPLES, Chunk, More, spread
from onnxheadprune.data.splicing import ENOUGH, HELD_OUT, LEAST, as_much_as_pays
from onnxheadprune.data.text import text_feeds
from onnxheadprune.deploying.batch import prune_batch
from onnxheadprune.deploying.batch_worker import Outcome
from onnxheadprune.model.load import load_model, open_structure
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from onnxheadprune.training.batches import Batches
from onnxheadprune.training.budget import Budget, parse_budget, parse_time
from onnxheadprune.training.checkpoint import beside
from onnxheadprune.training.recover import MOST_JUDGES, Recovering, split_for_recovery
from onnxheadprune.training.result import Measured
from onnxheadprune.training.training import LEARNED_BETWEEN
from onnxheadprune.workflow.choice.cutting import Cutter, Trying
from onnxheadprune.workflow.requests import Choice, Request
from onnxheadprune.workflow.sweep import sweep_ratios
from tests.graphs import toys
from tests.training.trainings import EPOCHS, HEADS, Stop
from tests.training.trainings import trained as short

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
    return text_feeds(path, tokenizer(folder), [replace(item, dims=item.dims[::step]) for item in inputs])


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
    assert MOST_JUDGES - 48 < judges.count <= MOST_JUDGES
    batches, random = Batches(learn), np.random.default_rng(0)
    once = [row for number in range(batches.rounds) for row in seen(batches.round(number, random))]
    assert sorted(once + seen(judges.feeds)) == sorted(known)
    # What comes again is spliced: rows that are in no file.
    again = seen(batches.round(batches.rounds, random))
    assert len(set(again)) < len(again) or set(again) - set(known)
    assert seen(batches.round(3, np.random.default_rng(5))) == seen(
        Batches(learn).round(3, np.random.default_rng(5))
    )


def test_text_is_transposed_for_sequence_first_models(tmp_path: Path) -> None:
    made = (text(tmp_path, "rows.txt", 40, step) for step in (1, -1))
    for plain, turned in zip(*made, strict=True):
        assert {name: array.T.tolist() for name, array in turned.items()} == {
            name: array.tolist() for name, array in plain.items()
        }


@pytest.mark.slow
def test_images_beyond_a_sample_are_decoded_when_they_are_wanted(tmp_path: Path, digits: Path) -> None:
    from PIL import Image

    random, batch = np.random.default_rng(0), 4
    for number in range(MOST_SAMPLES + 24):
        Image.fromarray(random.integers(0, 255, (8, 8), np.uint8)).save(tmp_path / f"{number}.png")
    view = view_of(load_model(digits))
    feeds = image_feeds(tmp_path, graph_inputs(view), batch=batch)
    data = calibration_data(feeds, view)
    assert data.count == MOST_SAMPLES and data.total == MOST_SAMPLES + 24 and data.more is not None
    paths = sorted(tmp_path.iterdir())
    beyond = spread(len(paths) // batch)[MOST_SAMPLES // batch]
    paths[beyond * batch].write_bytes(b"no picture")
    name = data.inputs[0].name
    chunks = [data.more.chunk(number) for number in range(data.more.chunks)]
    rows = [row.tobytes() for feeds, _ in chunks for feed in feeds for row in feed[name]]
    held = {row.tobytes() for feed in data.feeds for row in feed[name]}
    assert len(set(rows)) == len(rows) == 23 and not set(rows) & held
    assert sum((Counter(left_out) for _, left_out in chunks), Counter()) == {DAMAGED: 1}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["lines.txt", "folder"])
def test_another_process_gets_the_sample(form: str, tmp_path: Path) -> None:
    data = read(form, tmp_path)
    found = pickle.loads(pickle.dumps(data))
    assert found.more is None and found.total == data.count and seen(found.feeds) == seen(data.feeds)


@pytest.mark.slow
def test_whoever_counts_tokens_counts_all_of_a_long_text(tmp_path: Path) -> None:
    every = seen(text(tmp_path, "lines.txt").every())
    assert sorted(every) == sorted(tuple(numbered(number)) for number in range(COUNT))


@pytest.mark.parametrize("count", [1, 2, 3, 8, 97, 1000, 65536])
def test_every_beginning_of_an_order_is_spread_evenly(count: int) -> None:
    order = spread(count)
    assert sorted(order) == list(range(count))
    for part in (count // 10, count // 3):
        gaps = np.diff(sorted([-1, *order[:part], count]))
        assert gaps.max() <= 3 * (count + 1) / (part + 1) + 1


@pytest.mark.slow
def test_a_long_text_takes_the_memory_of_a_window(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    with path.open("w", encoding="utf-8") as stream:
        for number in range(30_000):
            stream.write(f"{number} is the number of this line" + ", and it goes on" * 18 + "\n")
    tracemalloc.start()
    texts = Texts(path)
    assert texts.count == 30_000 and texts.block(texts.blocks - 1)[-1].source.startswith("29999 ")
    assert len(texts.block(7)) == BLOCK
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 2**23 > 4 * peak


def test_what_is_left_out_is_counted_once() -> None:
    """Chunks are read in the background, the next one while this one is learned from, and again in later rounds."""
    data = calibration_data(toys.sentences(), view_of(toys.encoder()))
    readers = set[str]()

    def read(places: Sequence[int]) -> Chunk:
        readers.add(threading.current_thread().name)
        feeds = [feed for place in places for feed in toys.sentences(count=8, seed=place)]
        return feeds, {"of more than 8 tokens": len(places)}

    batches = Batches(replace(data, more=More(range(5), read, 45, 1), left_out={"without a token": 2}))
    random = np.random.default_rng(0)
    for number in range(2 * batches.rounds):
        assert list(batches.round(number, random))
    assert batches.left_out == {"of more than 8 tokens": 5, "without a token": 2}
    assert readers == {threading.current_thread().name, "onnxheadprune_0"}


# Bad data


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"\n \n", "is empty"),
    "one line again and again": (b"the same line\n" * 400, "all 400 samples of .* are the same"),
    "UTF-16": ("hello\nworld\n".encode("utf-16"), "is not UTF-8 text"),
    "UTF-16 without a mark": ("hello\nworld\n".encode("utf-16-le"), "is not UTF-8 text"),
    "Latin-1": ("Größe\nMaß\n".encode("latin-1"), "line 1 of .* is not UTF-8 text"),
    "a late line": (b"good line\nother line\n" * 20_000 + b"\xff\n", "line 40001 of .* is not UTF-8"),
    "no line ends": (b"word " * 2**20, "put one sample on a line"),
}


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
    assert said == []


@pytest.mark.parametrize("name", BAD)
def test_text_that_is_none_is_refused_before_any_work(name: str, tmp_path: Path) -> None:
    content, sentence = BAD[name]
    (tmp_path / "lines.txt").write_bytes(content)
    with pytest.raises(UsageError, match=sentence):
        Texts(tmp_path / "lines.txt", Reading(format="text"))


# Each stage as much as pays


def test_a_refit_takes_what_its_widest_map_wants(tmp_path: Path) -> None:
    data = read("arrays", tmp_path)
    assert data.positions == 6 * data.count
    assert as_much_as_pays(data, 10**6, 1) is data
    for unknowns in (24, 100):
        part = as_much_as_pays(data, unknowns, 1)
        assert abs(6 * part.count * (1 - HELD_OUT) - ENOUGH * unknowns) <= 6 * 64
    assert as_much_as_pays(data, 100, 10**12).positions == pytest.approx(
        LEAST * 100 / (1 - HELD_OUT), abs=6 * 64
    )


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


@pytest.mark.slow
def test_a_training_says_what_it_used_and_what_would_help() -> None:
    found = short()
    assert (
        found.data_words.startswith("training: ")
        and f" times each; held out: {found.held_out}" in found.data_words
    )
    assert found.used == EPOCHS * found.samples
    once = replace(found, used=found.samples // 2, repeated=False)
    assert once.data_words == (
        f"training: {once.used:,} of {found.samples:,} samples, none twice; held out: {found.held_out:,}"
    )
    less = replace(once, left_out={DAMAGED: 1, "of more than 8 tokens": 2})
    assert less.data_words.endswith(
        "; left out: 1 sample that cannot be read; left out: 2 samples of more than 8 tokens"
    )
    fell = replace(found, curve=(Measured(0, 1.0), Measured(9, 0.5)), best=9, unlearned=1.0)
    harder = replace(fell, learned=0.3, unlearned=0.6)
    assert harder.would_help == "more time"
    assert replace(fell, learned=0.3).would_help == "more data"
    assert (
        replace(fell, learned=0.3, repeated=False).would_help
        == replace(fell, learned=0.5).would_help
        == "more time"
    )
    flat = replace(fell, curve=(Measured(0, 0.51), Measured(9, 0.5)), learned=0.5, unlearned=0.51)
    assert flat.would_help == "neither"
    for item, words in (
        (replace(fell, learned=0.3), "more samples: "),
        (flat, "neither more samples nor more time"),
    ):
        assert item.help_words.startswith(words) and item.to_dict()["would_help"] == item.would_help


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "epochs", "wanted"), [(24, 200, "more data"), (400, 1, "more time")], ids=["text", "minutes"]
)
def test_what_would_help_is_what_helps(count: int, epochs: int, wanted: str) -> None:
    """Measured on 400 other sentences (1 - cosine): 24 that are trained 1,600 epochs .0171, with twice the steps .0139,
    with 240 sentences instead .0112; 1,600 that are trained once .0507, four times .0282, 6,400 in as many steps .0281.
    """
    data = toys.sentences(count=count)
    made = prune(
        toys.encoder(),
        heads=HEADS,
        data=data,
        recover=epochs,
        refit=False,
        provider="cpu",
        validate=False,
    )
    assert made.chosen is not None and made.chosen.recovery is not None
    assert made.chosen.recovery.would_help == wanted


# A time for the whole call


def test_a_time_of_a_call_is_what_is_left_of_it() -> None:
    budget = parse_time("2m")
    assert budget.call == 120 and budget.seconds is None and str(budget) == "120 s for the whole call"
    assert budget.left is not None and 116 < budget.left < 118
    kept = budget.keeping(20)
    assert kept.left is not None and 96 < kept.left < 98 and str(kept) == str(budget)
    half = kept.shared(2)
    assert half.call is None and half.seconds is not None and 48 < half.seconds < 49
    assert parse_budget("90s").left == 90 and parse_budget("3").left is None


class Here(Executor):
    """Notes what it is given, and does nothing."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    def submit(self, function: Any, job: Any, /) -> Any:  # type: ignore[override]
        self.jobs.append(job)
        done: Future[Any] = Future()
        done.set_result(Outcome("refused", 3, "a trial"))
        return done


def test_sizes_and_models_share_the_time_of_the_call(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / f"{name}.onnx").write_bytes(toys.encoder(layers=1).SerializeToString())
    here, request = Here(), Request(Choice(heads="0:1", recover=Budget(call=80.0)))
    prune_batch(tmp_path, request, tmp_path / "out", jobs=2, executor=here)
    assert [round(job.request.choice.recover.call) for job in here.jobs] == [40] * 4
    budget = replace(Budget(call=80.0), started=time.monotonic() - 20)
    part = budget.part(3)
    assert part.call is not None and round(part.call) == 20 and round(part.begun().left or 0) == 19
    turn = budget.turn(3)
    assert turn.call is not None and round(turn.call) == 40 and Budget(epochs=2).part(3) == Budget(epochs=2)


class Inline(Executor):
    """Notes what it is given, and does it at once."""

    def __init__(self) -> None:
        self.tasks: list[Any] = []

    def submit(self, function: Any, task: Any, /) -> Any:  # type: ignore[override]
        self.tasks.append(task)
        done: Future[Any] = Future()
        done.set_result(function(task))
        return done


@pytest.mark.slow
@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_sizes_of_a_sweep_are_trained_in_their_part(elsewhere: bool, short_clocks: None) -> None:
    executor = Inline() if elsewhere else None
    trying = Trying(refit=False, recovering=Recovering(Budget(call=2.0)))
    model, provider = open_structure(toys.encoder(layers=1)), Provider(CPU, "a test")
    cutter = Cutter(model, toys.sentences(), provider, trying)
    curve = sweep_ratios(cutter, Requirements(), [0.0, 0.25, 0.5], executor)
    assert [point.recovery is not None for point in curve.points] == [False, True, True]
    for task in [] if executor is None else executor.tasks:
        assert task.trying.recovering.budget.call <= 1.0


@pytest.mark.parametrize("spelled", ["3", "", "m", "-3m", "0s", "nanm", "2d", "9999h"])
def test_what_is_no_time_of_a_call(spelled: str) -> None:
    with pytest.raises(UsageError):
        parse_time(spelled)


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
