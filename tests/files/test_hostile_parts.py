"""Small files with many parts, and files that change places: a sentence, soon, and no crash."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxheadprune import ModelError, UsageError, inspect, prune
from onnxheadprune.model import load
from onnxheadprune.model.storage import wire
from onnxheadprune.model.storage.reading import Source
from onnxheadprune.model.storage.wire import spell_varint
from tests.files.filesystems import POSIX
from tests.graphs import toys
from tests.limits import bounded, within

GRAPH, NODE, VALUE_INFO, INITIALIZER, RAW_DATA, LOCATION = 7, 1, 13, 5, 9, 14
GROUP, END_GROUP, BYTES = 3, 4, 2


def message(field: int, content: bytes) -> bytes:
    return spell_varint(field << 3 | BYTES) + spell_varint(len(content)) + content


@pytest.mark.parametrize("what", ["nodes", "unknown", "group"])
def test_parts_are_counted_before_they_are_read(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes two bytes of the file, and hundreds of memory or a step of the reader."""
    assert wire.MAX_FIELDS == 2**22
    monkeypatch.setattr(wire, "MAX_FIELDS", 50_000)
    few = 50_001
    tails = {
        "nodes": message(GRAPH, message(NODE, b"") * few),
        "unknown": b"\xb8\x3e\x01" * few,
        "group": spell_varint(999 << 3 | GROUP) + b"\xb8\x3e\x01" * few + spell_varint(999 << 3 | END_GROUP),
    }
    path = tmp_path / "m.onnx"
    path.write_bytes(toys.attention().SerializeToString() + tails[what])
    result = bounded("inspect", path)
    assert result.exit_code == 3, result
    assert "more than 50,000 nodes, tensors and other parts" in result.stderr


def test_a_place_of_data_is_a_number_however_it_is_spelled(tmp_path: Path) -> None:
    """0x81 0x00 is 1, "external", as 0x01 is: the data in the model is not what such a tensor means."""
    model = toys.attention(extra_weight=20_000)
    position = next(i for i, t in enumerate(model.graph.initializer) if t.name == "extra.weight")
    tensor = model.graph.initializer.pop(position)
    path = tmp_path / "m.onnx"
    for spelled in (b"\x01", b"\x81\x00", b"\x00", b"\x80\x00"):
        place = spell_varint(LOCATION << 3) + spelled
        tail = message(GRAPH, message(INITIALIZER, tensor.SerializeToString() + place))
        path.write_bytes(model.SerializeToString() + tail)
        if spelled[0] & 1:
            with pytest.raises(ModelError, match="is external"):
                inspect(path)
        else:
            assert len(inspect(path)) == 1


def test_the_file_that_was_read_is_the_one_that_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another model that takes the name meanwhile would lend its bytes to the structure of the first."""
    path, other = tmp_path / "m.onnx", tmp_path / "other.onnx"
    model = toys.attention(extra_weight=20_000)
    onnx.save(model, path)
    toys.set_initializer(model, "extra.weight", np.zeros(20_000, np.float32))
    onnx.save(model, other)
    count = load._refers_to

    def swapped(structure: ModelProto, location: str) -> int:
        if other.exists():
            other.replace(path)
        return count(structure, location)

    monkeypatch.setattr(load, "_refers_to", swapped)
    with pytest.raises(ModelError, match="was modified while being read"):
        prune(path, tmp_path / "o.onnx", heads="0:1", provider="cpu")
    assert [item.name for item in tmp_path.iterdir()] == ["m.onnx"]


@POSIX
def test_a_fifo_that_takes_the_place_of_weights_lets_nobody_wait(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(b"w" * 100)
    found = path.stat()
    source = Source(path, found.st_size, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))
    path.unlink()
    os.mkfifo(path)
    with within(5), pytest.raises(ModelError, match="was modified while being read"):
        source.open()


@POSIX
def test_room_is_asked_for_before_anything_is_copied(tmp_path: Path) -> None:
    """A hole of terabytes takes no room, and a copy of it would take all that there is."""
    path, data = tmp_path / "m.onnx", tmp_path / "w.bin"
    model = toys.attention(extra_weight=5000)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=100)
    model = onnx.load(path, load_external_data=False)
    tensor = next(item for item in model.graph.initializer if item.name == "extra.weight")
    start, length = 2**20, 2**43
    with data.open("r+b") as stream:
        try:
            stream.truncate(start + length)
        except OSError:
            pytest.skip("this file system has no such holes")
    tensor.dims[:] = [length // 4]
    del tensor.external_data[:]
    for key, value in (("location", "w.bin"), ("offset", str(start)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    with within(20), pytest.raises(UsageError, match="cannot be written: no space is left"):
        prune(path, tmp_path / "o.onnx", heads="0:1", validate=False)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["m.onnx", "w.bin"]


@pytest.mark.slow
def test_ten_thousand_heads_take_seconds() -> None:
    """Each is looked up, and none is looked for among all the others."""
    before = os.times()
    (site,) = inspect(toys.attention(heads=10_000, hidden=4))
    assert site.num_heads == 10_000
    assert os.times().user - before.user < 8
