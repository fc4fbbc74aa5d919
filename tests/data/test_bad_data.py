"""Data that is none: a sentence before any work, from every command that takes data and for every kind of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from onnxheadprune.cli import NAMES, Commands
from onnxheadprune.data.formats import format_of
from onnxheadprune.errors import UsageError
from onnxheadprune.settings.inputs import TEXT_FORMATS, DataFormat
from tests.conftest import Command
from tests.options.catalogue import DATA, HEADS, MODES, OUT, Mode
from tests.options.models import write_models

OWN: Mapping[str, Mapping[str, Mode]] = {
    "fuse": {"auto": OUT | {"mode": ("--mode", "auto")} | DATA},
    "prune": {"time": OUT | HEADS | DATA | {"time": ("--time", "9s")}},
    "sweep": {"trained": MODES["sweep"]["data"] | {"recover": ("--recover", "1")}},
    "run": {"job": {"job": ("bad.yaml",)}},
}
"""Modes with data beside those of the catalogue."""
CALLS = {
    f"{command}: {name}": (command, mode)
    for command in NAMES
    for name, mode in (
        *[item for item in MODES.get(command, {}).items() if "data" in item[1]][
            : 3 if command == "prune" else 1
        ],
        *OWN.get(command, {}).items(),
    )
}
"""Of each command one way, of `prune` a few: all read data by the same functions."""
ANYTHING = ("fuse", "validate", "quantize", "combine")
"""They compare outputs on arrays that may be the same ones again and again; nothing is chosen or learned."""


@dataclass(frozen=True)
class Bad:
    """Bad data.

    Attributes:
        kind: as `--data-format` calls it.
        make: makes it in a folder.
        says: a part of the sentence.
        model: that it is for.
        fits: commands that take it.
    """

    kind: DataFormat | None
    make: Callable[[Path], str]
    says: str
    model: str = "toy"
    fits: tuple[str, ...] = ()


def file(name: str, content: bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return name

    return make


def folder_of(**arrays: object) -> Callable[[Path], str]:
    """A folder of feeds, good ones around one that is not."""

    def make(folder: Path) -> str:
        (folder / "feeds").mkdir()
        for name in ("a", "b", "m", "z"):
            np.savez(folder / "feeds" / f"{name}.npz", input_ids=IDS)
        if "content" in arrays:
            (folder / "feeds" / "m.npz").write_bytes(arrays["content"])  # type: ignore[arg-type]
        else:
            np.savez(folder / "feeds" / "m.npz", **arrays)  # type: ignore[arg-type]
        return "feeds"

    return make


def npz(**arrays: object) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        np.savez(folder / "bad.npz", **arrays)  # type: ignore[arg-type]
        return "bad.npz"

    return make


def cut_off(folder: Path) -> str:
    np.savez(folder / "bad.npz", input_ids=IDS)
    content = (folder / "bad.npz").read_bytes()
    (folder / "bad.npz").write_bytes(content[: len(content) // 2])
    return "bad.npz"


def parquet(**columns: object) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet as written

        written.write_table(pyarrow.table(columns), folder / "bad.parquet")
        return "bad.parquet"

    return make


def pictures(*contents: bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / "album").mkdir()
        for number, content in enumerate(contents):
            (folder / "album" / f"{number}.png").write_bytes(content)
        return "album"

    return make


def same_pictures(folder: Path) -> str:
    from PIL import Image

    (folder / "album").mkdir()
    for number in range(40):
        Image.new("L", (8, 8), 77).save(folder / "album" / f"{number}.png")
    return "album"


IDS = np.arange(48).reshape(8, 6) % 12
ROWS = "\n".join(json.dumps({"text": f"w{row} w{row % 3}"}) for row in range(40))
WORDS = "\n".join(f"w{row % 9} w{row % 7} w3" for row in range(40))
BAD = {
    "no file": Bad(None, lambda folder: "nothing.txt", "does not exist"),
    "empty file": Bad("text", file("bad.txt", b""), "is empty"),
    "white space": Bad("text", file("bad.txt", b" \n\t\n"), "is empty"),
    "one line again and again": Bad("text", file("bad.txt", b"w1 w2\n" * 50), "are the same"),
    "UTF-16": Bad("text", file("bad.txt", WORDS.encode("utf-16")), "UTF-8"),
    "UTF-16 without a mark": Bad("text", file("bad.txt", WORDS.encode("utf-16-be")), "UTF-8"),
    "Latin-1": Bad("text", file("bad.txt", "Größe\nMaß\n".encode("latin-1")), "UTF-8"),
    "binary": Bad("text", file("bad.txt", bytes(range(256)) * 20), "UTF-8"),
    "a late line of other bytes": Bad(
        "text", file("bad.txt", f"{WORDS}\n".encode() * 400 + b"\xff"), "UTF-8"
    ),
    "a table": Bad("text", file("bad.csv", b"text,label\nw1 w2,1\n"), "is a table"),
    "other keys": Bad("jsonl", file("bad.jsonl", b'{"ask": "w1"}\n{"ask": "w2"}\n'), "has no field text"),
    "a late line of other keys": Bad(
        "jsonl", file("bad.jsonl", f'{ROWS}\n{{"a": 1}}'.encode()), "no field text"
    ),
    "a late line that is no JSON": Bad("jsonl", file("bad.jsonl", f"{ROWS}\n{{".encode()), "not JSON"),
    "numbers for text": Bad("jsonl", file("bad.jsonl", b'{"text": 1}\n{"text": 2}\n'), "is no text"),
    "no column of text": Bad("parquet", parquet(label=[1, 2], ask=["w1", "w2"]), "has no field text"),
    "a column of numbers": Bad("parquet", parquet(text=[1, 2]), "is no text"),
    "a column of nothing": Bad("parquet", parquet(text=[None, ""]), "is empty"),
    "damaged Parquet": Bad(
        "parquet", file("bad.parquet", b"PAR1" + bytes(90)), "cannot be read as a Parquet file"
    ),
    "no archive": Bad("npz", file("bad.npz", b"\x93NUMPY\x01\x00"), "neither an .npz file"),
    "half an archive": Bad("npz", cut_off, ".npz"),
    "no arrays": Bad("npz", npz(), "lacks the input"),
    "other names": Bad("npz", npz(tokens=IDS), "lacks the input input_ids"),
    "another rank": Bad("npz", npz(input_ids=IDS[0]), "but the model's input is"),
    "another type": Bad("npz", npz(input_ids=IDS.astype(np.float32)), "convert it first"),
    "no samples": Bad("npz", npz(input_ids=IDS[:0]), "which is empty"),
    "unknown ids": Bad("npz", npz(input_ids=IDS + 10**6), "the table it indexes has"),
    "one sample again and again": Bad(
        "npz", npz(input_ids=IDS[:1].repeat(50, 0)), "are the same", fits=ANYTHING
    ),
    "a damaged feed": Bad("npz", folder_of(content=b"PK\x03\x04" + bytes(40)), "m.npz"),
    "an empty feed": Bad("npz", folder_of(content=b""), "m.npz"),
    "a feed of another rank": Bad("npz", folder_of(input_ids=IDS[0]), "m.npz"),
    "a feed of other names": Bad("npz", folder_of(tokens=IDS), "m.npz"),
    "an empty folder": Bad("images", pictures(), "holds neither .npz files nor images"),
    "damaged images": Bad("images", pictures(b"\x89PNG\r\n\x1a\n", b"\x89PNG"), "cannot be read", "vision"),
    "empty images": Bad("images", pictures(b"", b""), "cannot be read", "vision"),
    "one image again and again": Bad("images", same_pictures, "are the same", "vision", ANYTHING),
    "no such function": Bad(None, lambda folder: "bad_feeds:missing", "cannot be imported"),
    "a function that yields nothing": Bad(None, lambda folder: "bad_feeds:nothing", "holds no feed"),
    "a function that fails": Bad(None, lambda folder: "bad_feeds:fails", "failed"),
    "a function that yields something else": Bad(None, lambda folder: "bad_feeds:numbers", "is no mapping"),
}


@pytest.mark.parametrize("name", ["a.npz", "a.txt", "a.jsonl", "a.parquet", "a.png", "a.csv", "a"])
def test_a_file_without_a_byte_is_empty_whatever_its_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UsageError, match=f"{name} is empty"):
        format_of(tmp_path / name)


FUNCTIONS = """
def nothing():
    return []

def fails():
    raise RuntimeError("it is broken")

def numbers():
    return [1, 2]
"""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_models(tmp_path_factory.mktemp("shelf"))
    (folder / "bad_feeds.py").write_text(FUNCTIONS)
    return folder


def test_every_kind_of_data_and_every_command_that_takes_it_is_tried() -> None:
    assert {case.kind for case in BAD.values()} >= set(get_args(DataFormat))
    taking = {name for name in NAMES if any(option.name == "data" for option in Commands()[name].params)}
    assert {command for command, _ in CALLS.values()} == {*taking, "run"}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_told_before_any_work(
    name: str, shelf: Path, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(shelf)
    case, place = BAD[name], tmp_path / "data"
    place.mkdir()
    data = case.make(place)
    data = data if ":" in data else str(place / data)
    for call, (verb, mode) in CALLS.items():
        if verb in case.fits or (verb == "batch" and name != "UTF-16"):
            # A process that a batch starts reads as `prune` does, and its start takes seconds.
            continue
        typed = [word.format(model=case.model) for words in mode.values() for word in words]
        typed = [str(tmp_path / word) if word.startswith("out") else word for word in typed]
        if verb == "run":
            size = ", image_size: [16, 8]" if case.kind == "images" and case.model == "vision" else ""
            text = f"model: {case.model}.onnx\noutput: {tmp_path}/job\nprune: {{ratio: 0.5}}\n"
            (shelf / "bad.yaml").write_text(f"{text}data: {{path: '{data}'{size}}}\n")
        else:
            typed[typed.index("--data") + 1] = data
            if "folder" in call and case.kind in TEXT_FORMATS:
                typed += ["--tokenizer", "tokenizer.json"]
            typed += ["--image-size", "16x8"] if case.kind == "images" and case.model == "vision" else []
        outcome = command(verb, *typed)
        told = f"{call}: {outcome.exit_code}\n{outcome.stdout}\n{outcome.stderr}"
        said = " ".join((outcome.stdout if verb == "batch" else outcome.stderr).split())
        assert case.says in said, told
        if verb == "batch":
            assert outcome.exit_code == 3, told
            continue
        assert outcome.exit_code == 2 and outcome.stderr.startswith("error: "), told
        assert outcome.stderr.count("\n") == 1, told
    assert not list(tmp_path.glob("out*.onnx"))
