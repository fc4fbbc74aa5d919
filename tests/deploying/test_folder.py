"""A folder of models goes in and a folder comes out: the same heads from every file, everything else as it was."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxheadprune import inspect, prune_folder
from onnxheadprune.model.load import load_model
from tests.conftest import Command
from tests.deploying import exports
from tests.deploying.exports import contents
from tests.graphs import pairs, toys


def removed(path: Path) -> list[tuple[int, ...]]:
    return [site.removed for site in inspect(path)]


def packed(folder: Path) -> Path:
    """An encoder, and the same in blocks of four bits."""
    folder.mkdir()
    model = toys.stack(inner=32)
    onnx.save(model, folder / "model.onnx")
    onnx.save(toys.packed(model, 0), folder / "model_q4.onnx")
    return folder


Asked = dict[str, Any]
BLOCK = f"0:0-{toys.BLOCK - 1}"
ASKED: tuple[tuple[Callable[[Path], Path], Asked, set[str]], ...] = (
    (exports.encoder, {"heads": "0:1 1:0,3", "neurons": "1:0-3,9"}, {"onnx/model.onnx", "onnx/model_quantized.onnx"}),
    (exports.encoder, {"layers": "ffn.0"}, {"onnx/model.onnx", "onnx/model_quantized.onnx"}),
    (exports.encoder, {"ratio": 0.5}, {"onnx/model.onnx", "onnx/model_quantized.onnx"}),
    (exports.decoder, {"heads": "0:1"}, {"decoder_model.onnx", "decoder_with_past_model.onnx"}),
    (exports.encoder_decoder, {"heads": "2:3"}, {"encoder_model.onnx"}),
    (partial(pairs.folder, feed=True), {"neurons": "0:0-3"},
     {f"decoder_{name}.onnx" for name in ("model", "model_merged", "with_past_model")}),
    (packed, {"neurons": BLOCK}, {"model.onnx", "model_q4.onnx"}),
)  # fmt: skip
"""Folders, what is asked of each, and the files that lose it."""


@pytest.mark.parametrize(("make", "asked", "files"), ASKED)
def test_every_file_loses_the_same_units_and_nothing_else_changes(
    make: Callable[[Path], Path], asked: Asked, files: set[str], tmp_path: Path
) -> None:
    folder, out = make(tmp_path / "in"), tmp_path / "out"
    before = contents(folder)
    result = prune_folder(folder, out, **asked, provider="cpu")
    assert {item.name for item in result.files} == files and sum(item.leads for item in result.files) == 1
    assert any(result.heads.values()) and contents(folder) == before
    for item in result.files:
        assert item.result.validation is not None and item.result.validation.verdict == "passed"
        sites = inspect(out / item.name)
        lost = {site.index: site.removed for kind in result.match.kinds for site in sites.of(kind.units)}
        for index, number in result.match.of(item.name).items():
            assert lost.get(index, result.heads.get(number, ())) == result.heads.get(number, ())
    after = contents(out)
    weights = {name for name in before if name.endswith("_data")}
    assert after.keys() | weights == before.keys() | {"README.md"}
    unlike = {name for name in after if after[name] != before.get(name)}
    assert files | {"README.md"} <= unlike <= files | {"README.md"} | weights
    assert set(result.copied) == after.keys() - unlike


@pytest.mark.slow
def test_what_is_refitted_is_carried_to_files_with_the_same_weights(command: Command, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    model = toys.stack()
    onnx.save(model, folder / "model.onnx")
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    for tensor in renamed.graph.initializer:
        for node in renamed.graph.node:
            for index, name in enumerate(node.input):
                if name == tensor.name:
                    node.input[index] = f"other_{name}"
        tensor.name = f"other_{tensor.name}"
    onnx.save(renamed, folder / "model_optimized.onnx")
    np.savez(tmp_path / "d.npz", input_ids=np.random.default_rng(3).integers(0, toys.VOCABULARY, (32, 6)))
    outcome = command("prune", folder, "-o", out, "--ratio", "0.5", "--data", tmp_path / "d.npz", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    weights = {
        name: {
            tensor.name: numpy_helper.to_array(tensor) for tensor in load_model(out / name).graph.initializer
        }
        for name in ("model.onnx", "model_optimized.onnx")
    }
    plain, other = weights.values()
    assert any(
        not np.array_equal(plain[tensor.name], numpy_helper.to_array(tensor))
        for tensor in model.graph.initializer
        if tensor.name in plain and plain[tensor.name].shape == tuple(tensor.dims)
    )
    for tensor in model.graph.initializer:
        if tensor.name in plain:
            np.testing.assert_array_equal(plain[tensor.name], other[f"other_{tensor.name}"])


@pytest.mark.slow
def test_caches_fit_from_file_to_file(command: Command, tmp_path: Path) -> None:
    folder, out = exports.decoder(tmp_path / "in"), tmp_path / "out"
    outcome = command("prune", folder, "-o", out, "--heads", "0:1", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    sizes = {}
    for name in ("decoder_model.onnx", "decoder_with_past_model.onnx"):
        graph = load_model(out / name).graph
        for info in (*graph.input, *graph.output):
            if info.name.startswith(("past_", "present_")):
                sizes[name, info.name] = info.type.tensor_type.shape.dim[1].dim_value
    assert len(sizes) == 6 and set(sizes.values()) == {toys.HEADS - 1}
    assert any("--runtime" in text for text in outcome.document["warnings"])
    changes = [change for item in outcome.document["files"] for change in item["plan"]["interface"]]
    assert {"role": "input", "name": "past_key", "axis": 1, "before": 4, "after": 3} in changes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "name"),
    [
        ((), "model.onnx_data"),
        (("--data-name", "{}.data"), "model.onnx.data"),
        (("--external-data", "never"), None),
    ],
)
def test_data_files_keep_the_names_of_the_layout(
    options: tuple[str, ...], name: str | None, command: Command, tmp_path: Path
) -> None:
    folder, out = exports.encoder(tmp_path / "in", inner=exports.WIDE), tmp_path / "out"
    outcome = command("prune", folder, "-o", out, "--heads", "0:1", *options)
    assert outcome.exit_code == 0, outcome.stderr
    wanted = {"model.onnx", "model_quantized.onnx"} | ({name} if name else set())
    assert {path.name for path in (out / "onnx").iterdir()} == wanted
    assert removed(out / "onnx" / "model.onnx") == [(1,), ()]


@pytest.mark.parametrize("name", ["a/b", "{}", "model_quantized.onnx"])
def test_names_that_are_none(name: str, command: Command, tmp_path: Path) -> None:
    folder = exports.encoder(tmp_path / "in")
    outcome = command("prune", folder, "-o", tmp_path / "out", "--heads", "0:1", "--data-name", name)
    assert outcome.exit_code == 2 and outcome.stderr.count("\n") == 1, outcome.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_hub_cache_is_read_through_its_links(command: Command, tmp_path: Path) -> None:
    folder = exports.as_hub_cache(exports.encoder(tmp_path / "in"), tmp_path / "hub")
    outcome = command("prune", folder, "-o", tmp_path / "out", "--heads", "0:1")
    assert outcome.exit_code == 2 and "--follow-links" in outcome.stderr
    outcome = command("prune", folder, "-o", tmp_path / "out", "--heads", "0:1", "--follow-links")
    assert outcome.exit_code == 0, outcome.stderr
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert removed(tmp_path / "out" / "onnx" / "model.onnx") == [(1,), ()]
    model = folder / "onnx" / "model.onnx"
    assert "--follow-links" in command("inspect", model).stderr
    assert command("inspect", model, "--follow-links").exit_code == 0


def test_what_is_there_is_never_replaced(command: Command, tmp_path: Path) -> None:
    folder = exports.encoder(tmp_path / "in")
    before = contents(folder)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    for target in (tmp_path / "out", folder, folder / "new"):
        outcome = command("prune", folder, "-o", target, "--heads", "0:1")
        assert outcome.exit_code == 2 and outcome.stderr.count("\n") == 1, outcome.stderr
    assert contents(folder) == before and contents(tmp_path / "out") == {"mine": b"mine"}
    (tmp_path / "out" / "mine").unlink()
    assert command("prune", folder, "-o", tmp_path / "out", "--heads", "0:1").exit_code == 0


def test_a_cut_that_fails_leaves_nothing(command: Command, tmp_path: Path) -> None:
    """The second network's heads show nowhere, so its cut is not proven, and the first one's is not kept."""
    folder = exports.encoder_decoder(tmp_path / "in")
    onnx.save(toys.attention(out_scale=0.0, ids=True), folder / "encoder_model.onnx")
    outcome = command("prune", folder, "-o", tmp_path / "out", "--heads", "0:1 1:1")
    assert outcome.exit_code == 1, outcome.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.slow
def test_all_commands_take_folders(command: Command, tmp_path: Path, short_clocks: None) -> None:
    folder, out = exports.encoder(tmp_path / "in"), tmp_path / "out"
    assert command("prune", folder, "-o", out, "--heads", "0:1").exit_code == 0
    shown = command("validate", folder, out, "--json")
    assert shown.exit_code == 0, shown.stderr
    assert [item["file"] for item in shown.document["files"]] == [
        "onnx/model.onnx",
        "onnx/model_quantized.onnx",
    ]
    assert shown.document["accepted"]
    shown = command(
        "bench", folder, out, "--repeats", "7", "--batch", "1", "--seq", "4", "--no-memory", "--json"
    )
    assert shown.exit_code == 0, shown.stderr
    assert [item["file"] for item in shown.document["files"]] == ["onnx/model.onnx"]
    assert command("score", folder, "--json").document["method"] == "weight"
    assert command("validate", folder, out / "onnx" / "model.onnx").exit_code == 2


@pytest.mark.slow
def test_data_goes_to_the_networks_that_it_is_for(command: Command, tmp_path: Path) -> None:
    folder, out = exports.encoder_decoder(tmp_path / "in"), tmp_path / "out"
    np.savez(tmp_path / "d.npz", input_ids=np.random.default_rng(3).integers(0, toys.VOCABULARY, (32, 6)))
    outcome = command("prune", folder, "-o", out, "--ratio", "0.5", "--data", tmp_path / "d.npz", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    basis = {
        item["file"]: item["choice"]["selection"]["basis"]
        for item in outcome.document["files"]
        if item["leads"]
    }
    assert basis["encoder_model.onnx"] != basis["decoder_model.onnx"]
    (sentence,) = (text for text in outcome.document["warnings"] if "weights alone" in text)
    assert sentence.startswith("the heads of decoder_model.onnx")
    np.savez(tmp_path / "other.npz", pictures=np.zeros((2, 3)))
    outcome = command(
        "prune", folder, "-o", tmp_path / "two", "--ratio", "0.5", "--data", tmp_path / "other.npz"
    )
    assert outcome.exit_code == 2 and "fits none of the models" in outcome.stderr


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_no_folder_and_the_next_one_sweeps(
    command: Command, tmp_path: Path
) -> None:
    folder, out = exports.encoder(tmp_path / "in"), tmp_path / "out"
    before = contents(folder)
    words = [sys.executable, "-m", "onnxheadprune", "prune", str(folder), "-o", str(out), "--heads", "0:1"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(tmp_path.glob(".out.*.tmp/folder/onnx")):
            time.sleep(0.01)
        process.kill()
    assert not out.exists() and contents(folder) == before
    assert len(list(tmp_path.glob(".out.*.tmp"))) == 1
    assert command("prune", folder, "-o", out, "--heads", "0:1").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
