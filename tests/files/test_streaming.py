"""Weights stay on disk: what is read, in how much memory, and that the parts make the whole."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from benchmarks.decoder import Shape, make
from onnxheadprune import ModelError, UsageError, apply_plan, plan_pruning, prune, validate
from onnxheadprune.model.load import open_model, open_structure
from onnxheadprune.model.new_contents import with_contents
from onnxheadprune.model.storage import reading
from onnxheadprune.model.storage.reading import Opened, Source, hydrated, tensor_bytes
from onnxheadprune.model.storage.tensors import BITS, Span, defer_cut, refer, tensors_of
from onnxheadprune.model.tensors import Selection, cut, spell_ranges
from onnxheadprune.runtime import CPU, Provider, Session
from tests.conftest import ROOT
from tests.graphs import toys

SMALL = Shape(layers=2, width=256, heads=8, groups=4, inner=512, vocabulary=1000, context=64)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("decoder") / "d.onnx"
    make(path, SMALL)
    return path


def in_one_file(decoder: Path, folder: Path) -> Path:
    path = folder / "inline.onnx"
    path.write_bytes(onnx.load(decoder).SerializeToString())
    return path


@pytest.mark.parametrize("inline", [False, True])
def test_a_structure_holds_no_weights(decoder: Path, tmp_path: Path, inline: bool) -> None:
    path = in_one_file(decoder, tmp_path) if inline else decoder
    loaded = open_structure(path)
    assert loaded.proto.ByteSize() < 200_000
    if inline:
        assert onnx.load(path) == hydrated(loaded.proto, loaded.sources)
    one, other = onnx.load(path), open_model(path).proto
    for left, right in zip(one.graph.initializer, other.graph.initializer, strict=True):
        assert numpy_helper.to_array(left).tobytes() == numpy_helper.to_array(right).tobytes()


@pytest.mark.each_choice
@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("external", ["auto", "always", "never"])
def test_streamed_and_in_memory_are_equal(decoder: Path, tmp_path: Path, inline: bool, external: Any) -> None:
    path = in_one_file(decoder, tmp_path) if inline else decoder
    result = prune(path, tmp_path / "o.onnx", heads="*:2-3", external_data=external, provider="cpu")
    assert result.validation is not None and result.validation.passed
    expected = apply_plan(result.plan, onnx.load(path))
    found = onnx.load(tmp_path / "o.onnx")
    assert [t.name for t in found.graph.initializer] == [t.name for t in expected.graph.initializer]
    for left, right in zip(expected.graph.initializer, found.graph.initializer, strict=True):
        assert (left.dims, left.raw_data) == (right.dims, right.raw_data)
    assert result.model.graph.node == found.graph.node
    assert validate(path, tmp_path / "o.onnx", provider="cpu").passed


def test_a_wrong_byte_on_disk_fails_the_validation(decoder: Path, tmp_path: Path) -> None:
    """In a row of the embedding that no random input reads, and in a weight that was cut."""
    prune(decoder, tmp_path / "o.onnx", heads="*:2-3", validate=False)
    data = next(tmp_path.glob("*.data"))
    whole = data.read_bytes()
    tensors = {t.name: t for t in onnx.load(tmp_path / "o.onnx", load_external_data=False).graph.initializer}
    for name in ("embed.weight", "layers.1.attn.o.weight"):
        offset = next(int(e.value) for e in tensors[name].external_data if e.key == "offset")
        data.write_bytes(whole[: offset + 5] + bytes([whole[offset + 5] ^ 1]) + whole[offset + 6 :])
        verdict = validate(decoder, tmp_path / "o.onnx", provider="cpu")
        assert verdict.verdict == "failed"
        assert name in verdict.reason or name in " ".join(verdict.problems)


def _tensor(data_type: int, dims: tuple[int, ...], seed: int) -> TensorProto:
    bits = int(np.prod(dims)) * BITS[data_type]
    data = np.random.default_rng(seed).bytes((bits + 7) // 8)
    return TensorProto(name="w", data_type=data_type, dims=dims, raw_data=data)


SELECTIONS = {
    "first axis": ((0,), (6,), (3,), [0, 2, 5]),
    "middle axis": ((1,), (4,), (2,), [1, 2]),
    "last axis": ((2,), (10,), (3,), [0, 1, 9]),
    "all but one": ((0,), (6,), (5,), [0, 1, 2, 3, 4]),
    "two axes": ((1, 2), (4, 10), (2, 5), [0, 2, 4, 6, 8, 20, 22, 24, 26, 28]),
    "outer and inner": ((0, 2), (6, 10), (3, 2), [0, 5, 20, 25, 40, 45]),
    "nothing": ((1,), (4,), (0,), []),
}


@pytest.mark.each_choice
@pytest.mark.parametrize("block", [1, 64, 2**23])
@pytest.mark.parametrize(("worth", "many"), [(1, 64), (2**15, 64), (2**15, 1)])
@pytest.mark.parametrize("name", SELECTIONS)
def test_parts_make_the_cut(
    name: str, block: int, worth: int, many: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the sizes of blocks and runs, and for every type: the bytes of the cut in memory."""
    monkeypatch.setattr(reading, "BLOCK", block)
    monkeypatch.setattr(reading, "WORTH_A_COPY", worth)
    monkeypatch.setattr(reading, "MANY_RUNS", many)
    axes, sizes, kept, live = SELECTIONS[name]
    selection = Selection(axes, sizes, kept, spell_ranges(np.array(live, dtype=np.int64)))
    again = Selection((1,), (kept[axes.index(1)] if 1 in axes else 4,), (1,), "0")
    for data_type in (
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.INT8,
        TensorProto.INT4,
        TensorProto.DOUBLE,
    ):
        for cuts in ([selection], [selection, again] if live else [selection]):
            whole = _tensor(data_type, (6, 4, 10), data_type)
            path = tmp_path / f"{data_type}"
            path.write_bytes(b"abc" + whole.raw_data)
            outside = TensorProto()
            outside.CopyFrom(whole)
            refer(outside, Span("w", 3, len(whole.raw_data)))
            for item in cuts:
                cut(whole, item)
                defer_cut(outside, item)
            sources = {"w": Source.at(path)}
            assert tuple(outside.dims) == tuple(whole.dims)
            assert tensor_bytes(outside, sources) == whole.raw_data


@pytest.mark.slow
def test_copies_without_the_help_of_the_system(
    decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prune(decoder, tmp_path / "a.onnx", heads="*:2-3", validate=False)
    one = next(tmp_path.glob("a.onnx.*")).read_bytes()

    def fails(*_: Any) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.copy_file_range", fails)
    prune(decoder, tmp_path / "b.onnx", heads="*:2-3", validate=False)
    assert next(tmp_path.glob("b.onnx.*")).read_bytes() == one
    monkeypatch.setattr("os.copy_file_range", lambda *_: 0)
    prune(decoder, tmp_path / "c.onnx", heads="*:2-3", validate=False)
    assert next(tmp_path.glob("c.onnx.*")).read_bytes() == one


@pytest.mark.slow
def test_inline_models_over_the_limit_leave_as_external_data(
    decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = in_one_file(decoder, tmp_path)
    monkeypatch.setattr("onnxheadprune.model.save.INLINE_LIMIT", 1_000_000)
    prune(path, tmp_path / "o.onnx", heads="*:2-3", provider="cpu")
    assert len(list(tmp_path.glob("o.onnx.*.data"))) == 1
    assert (tmp_path / "o.onnx").stat().st_size < 100_000
    with pytest.raises(UsageError, match='external_data="auto"'):
        prune(path, tmp_path / "never.onnx", heads="*:2-3", external_data="never", provider="cpu")


def test_too_large_for_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxheadprune.model.save.INLINE_LIMIT", 10_000)
    model = toys.attention(extra_weight=5000)
    with pytest.raises(UsageError, match='external_data="auto"'):
        prune(model, tmp_path / "o.onnx", heads="0:1", external_data="never", provider="cpu")
    assert not list(tmp_path.iterdir())
    prune(model, tmp_path / "o.onnx", heads="0:1", provider="cpu")
    assert [path.name[:7] for path in sorted(tmp_path.iterdir())] == ["o.onnx", "o.onnx."]


def test_new_contents_are_cut_like_the_old(decoder: Path, tmp_path: Path) -> None:
    loaded = open_structure(decoder)
    name, calls = "layers.0.attn.o.weight", []
    new = np.random.default_rng(1).standard_normal((256, 256)).astype(np.float32)

    def compute() -> Any:
        calls.append(1)
        return new

    plan = plan_pruning(decoder, heads="*:2-3")
    other = with_contents(loaded, {name: compute, "final_norm.weight": np.full(256, 2, np.float32)})
    assert not calls
    result = prune(other, tmp_path / "o.onnx", heads="*:2-3", provider="cpu")
    assert calls and result.validation is not None and result.validation.passed
    reference = onnx.load(decoder)
    toys.set_initializer(reference, name, new)
    toys.set_initializer(reference, "final_norm.weight", np.full(256, 2, np.float32))
    expected = apply_plan(plan, reference)
    found = onnx.load(tmp_path / "o.onnx")
    for kept in (name, "final_norm.weight"):
        np.testing.assert_array_equal(toys.get_initializer(found, kept), toys.get_initializer(expected, kept))
    assert len(list(tmp_path.iterdir())) == 2
    for wrong in ({"nothing": new}, {name: new[:2]}, {name: new.astype(np.float64)}):
        with pytest.raises(UsageError, match=r"no initializer|is needed"):
            with_contents(loaded, wrong)


def test_references_without_their_files(decoder: Path) -> None:
    light = open_structure(decoder).proto
    with pytest.raises(ModelError, match="not in memory"):
        prune(light, heads="*:2-3")
    with pytest.raises(ModelError, match="are not loaded; pass the model as a path"):
        Session(light, Provider(CPU, "test"))


@pytest.mark.slow
def test_memory_stays_small(tmp_path: Path) -> None:
    """A model of 420 MB is pruned by a process that may use 300 MB for data, and planned too."""
    path = tmp_path / "big.onnx"
    make(path, Shape(layers=2, width=2048, vocabulary=4000))
    assert (tmp_path / "big.onnx.bin").stat().st_size > 400_000_000

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (300_000_000, 300_000_000))

    for options in (["--dry-run"], ["-o", "small.onnx", "--no-validate"]):
        command = [sys.executable, "-m", "onnxheadprune", "prune", "big.onnx", "--heads", "*:0-7", *options]
        result = subprocess.run(
            command,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=limit,
            env=_environment(),
        )
        assert result.returncode == 0, result.stderr
    assert len(list(tmp_path.glob("small.onnx*"))) == 2


def _environment() -> dict[str, str]:
    # Threads of a BLAS reserve memory of their own.
    return {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}


def test_open_files_are_closed(decoder: Path) -> None:
    loaded = open_structure(decoder)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with Opened(loaded.sources) as opened:
        for stored_tensor in tensors_of(loaded.proto):
            if (
                stored_tensor.tensor.external_data
                and stored_tensor.tensor.data_location == TensorProto.EXTERNAL
            ):
                opened.handle(
                    next(e.value for e in stored_tensor.tensor.external_data if e.key == "location")
                )
    assert len(list(Path("/proc/self/fd").iterdir())) == before
