"""Models on their way to workers, and targets on models whose weights stay on disk."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxheadprune import UsageError
from onnxheadprune.choosing.targets import PruningTarget
from onnxheadprune.model.load import open_structure
from onnxheadprune.model.pickling import arrived, sent
from onnxheadprune.model.storage.tensors import is_outside
from onnxheadprune.runtime import CPU, Provider
from onnxheadprune.workflow.choice.cutting import Cutter
from onnxheadprune.workflow.choice.size import FileSize
from onnxheadprune.workflow.choosing import choose
from tests.graphs import toys

HERE = Provider(CPU, "test")


class Travelling(Executor):
    """Runs tasks here, as a worker does that gets them by a pipe."""

    def __init__(self) -> None:
        self.tasks: list[Any] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.tasks += args
        function, sent_along = pickle.loads(pickle.dumps((fn, args)))
        done: Future[Any] = Future()
        done.set_result(function(*sent_along, **kwargs))
        return done


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModelProto, Path]:
    """A model in memory, and the same with every weight of more than 64 bytes in a file beside it that is not read."""
    for module in ("load", "new_contents", "storage.wire"):
        monkeypatch.setattr(f"onnxheadprune.model.{module}.BIG", 64)
    model, copy = toys.stack(layers=3), ModelProto()
    copy.CopyFrom(model)
    path = tmp_path / "model.onnx"
    onnx.save(copy, path, save_as_external_data=True, location="weights", size_threshold=64)
    return model, path


def test_small_models_travel_whole_and_large_ones_by_path(outside: tuple[ModelProto, Path]) -> None:
    loaded = open_structure(outside[1])
    whole, by_path = sent(loaded), sent(loaded, whole_up_to=0)
    assert whole.content is not None and whole.path is None
    assert by_path.content is None and by_path.path == outside[1].resolve()
    assert len(pickle.dumps(by_path)) < 1000 < len(pickle.dumps(whole))
    for task in (whole, by_path):
        there = arrived(pickle.loads(pickle.dumps(task)))
        assert [node.name for node in there.proto.graph.node] == [n.name for n in loaded.proto.graph.node]
    assert all(not is_outside(tensor) for tensor in arrived(whole).proto.graph.initializer)


def test_a_worker_says_which_file_it_cannot_reach(outside: tuple[ModelProto, Path], tmp_path: Path) -> None:
    task = sent(open_structure(outside[1]), whole_up_to=0)
    onnx.save(toys.stack(layers=2), outside[1])
    with pytest.raises(UsageError, match="is another model for a worker"):
        arrived(task)
    outside[1].unlink()
    with pytest.raises(UsageError, match=r"a worker cannot read .* workers need the same files"):
        arrived(task)


@pytest.mark.slow
def test_a_target_reads_weights_block_by_block_and_finds_the_same(outside: tuple[ModelProto, Path]) -> None:
    model, path = outside
    feeds: Any = toys.ids(30)
    found = []
    for given in (open_structure(model), open_structure(path)):
        cutter = Cutter(given, feeds, HERE)
        chosen = choose(cutter, PruningTarget(ratio=0.25), FileSize.of(given, given))
        assert chosen.compensation is not None
        found.append((chosen.selection.heads, dict(chosen.compensation.stored), chosen.drift))
    weights = [tensor for tensor in cutter.model.proto.graph.initializer if len(tensor.dims) == 2]
    assert weights and all(map(is_outside, weights)), "the target has read the weights into the model"
    assert found[0][0] == found[1][0] and found[0][2] == pytest.approx(found[1][2])
    assert set(found[0][1]) == set(found[1][1])
    for name, array in found[0][1].items():
        np.testing.assert_array_equal(array, found[1][1][name])
