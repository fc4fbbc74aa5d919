"""`olive run` prunes, alone and in a search, and then quantizes with Olive's own pass: a model, and a composite."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from environment import ROOT, made_folder, tell

from tests.deploying import exports

CLIENT = f"Olive {version('olive-ai')} (onnxruntime {onnxruntime.__version__})"
CLOSE = 1e-5
SIDE = ("config.json", "tokenizer.json", "tokenizer_config.json", "1_Pooling/config.json")
QUANTIZE = {"type": "OnnxDynamicQuantization", "precision": "uint8"}
DATASET = """
from pathlib import Path

import numpy as np
import torch
from olive.data.registry import Registry


class Lines(torch.utils.data.Dataset):
    files = sorted(Path("{folder}").glob("*.npz"))

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with np.load(self.files[index]) as stored:
            return {{name: torch.from_numpy(stored[name][0]) for name in stored}}, 0


@Registry.register_dataset()
def token_lines(**kwargs):
    return Lines()
"""
CUTS = {"uneven": "0:1 1:0,2,3", "uniform": "0:1 1:0 2:3"}


def main() -> None:
    """Runs every case."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        made_folder(place)
        words = [sys.executable, "-m", "onnxheadprune.integrations.olive", "--package-config"]
        subprocess.run([*words, str(place / "package.json")], check=True)
        _documented(place)
        _named(place)
        _then_quantized(place)
        _calibrated(place)
        _searched(place)
        _composite(place)


def _documented(place: Path) -> None:
    """The configuration and the commands of docs/deploying.md, word by word, with files of the names in them."""
    page = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    part = page[page.index("## Olive\n") :]
    config, commands = (re.findall(rf"```{kind}\n(.*?)```", part, re.DOTALL)[0] for kind in ("json", "sh"))
    desk = place / "documented"
    desk.mkdir()
    shutil.copytree(place / "folder", desk / "FOLDER")
    shutil.copy(place / "lines.txt", desk / "lines.txt")
    (desk / "run.json").write_text(config)
    where = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for line in commands.splitlines():
        if not line.startswith("pip "):
            subprocess.run(line, shell=True, cwd=desk, env=where, check=True)
    out = desk / "FOLDER2"
    kinds = {node.op_type for node in onnx.load(out / "model.onnx").graph.node}
    assert kinds & {"MatMulInteger", "DynamicQuantizeMatMul"}, kinds
    for name in SIDE:
        assert (out / name).read_bytes() == (desk / "FOLDER" / name).read_bytes(), name
    card = (out / "README.md").read_text()
    assert "# FOLDER\n" in card and "as the pass HeadPruning wrote them" in card, card
    tell(CLIENT, "BERT, the configuration and commands of docs/deploying.md", "olive run", [])


def _named(place: Path) -> None:
    with np.load(place / "wanted.npz") as stored:
        wanted = dict(stored)
    for cut, heads in CUTS.items():
        out = _run(place, f"named {cut}", {"prune": {"type": "HeadPruning", "heads": heads}})
        np.testing.assert_allclose(_hidden(out, wanted), wanted[cut], rtol=0, atol=CLOSE)
        _side_files(place, out)
        tell(CLIENT, f"BERT, {cut}", "olive run", [])


def _then_quantized(place: Path) -> None:
    prune = {"type": "HeadPruning", "ratio": 0.25, "data": str(place / "lines.txt")}
    out = _run(place, "quantized", {"prune": prune, "quantize": QUANTIZE})
    by_hand = place / "by hand"
    options = ["--ratio", "0.25", "--data", str(place / "lines.txt")]
    words = [sys.executable, "-m", "onnxheadprune", "prune", str(place / "folder"), "-o", str(by_hand)]
    subprocess.run([*words, *options], check=True)
    alone = _run(place, "quantized alone", {"quantize": QUANTIZE}, folder=by_hand)
    with np.load(place / "wanted.npz") as stored:
        found, wanted = _hidden(out, stored), _hidden(alone, stored)
    np.testing.assert_array_equal(found, wanted)
    kinds = {node.op_type for node in onnx.load(out / "model.onnx").graph.node}
    assert kinds & {"MatMulInteger", "DynamicQuantizeMatMul"}, kinds
    _side_files(place, out)
    case = "BERT, a quarter of the heads, refitted on text, then Olive's dynamic quantization"
    tell(CLIENT, case, "olive run", [])


def _calibrated(place: Path) -> None:
    """Olive's own kind of data gives the heads, and the refit, that the same arrays give on the command line."""
    with np.load(place / "wanted.npz") as stored:
        ids, mask = stored["input_ids"], stored["attention_mask"]
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    feeds = place / "feeds"
    feeds.mkdir()
    for row in range(len(ids)):
        np.savez(feeds / f"{row:03}.npz", **{name: array[row : row + 1] for name, array in arrays.items()})
    script = place / "olive_lines.py"
    script.write_text(DATASET.format(folder=str(feeds)))
    data = {"name": "lines", "user_script": str(script), "load_dataset_config": {"type": "token_lines"}}
    data["dataloader_config"] = {"batch_size": 1}
    passes = [
        {"type": "HeadPruning", "ratio": 0.25, **more}
        for more in ({"data_config": "lines"}, {"data": str(feeds)})
    ]
    first = _run(place, "data of Olive", {"prune": passes[0]}, data_configs=[data])
    second = _run(place, "data of a folder", {"prune": passes[1]})
    found, wanted = (_hidden(out, arrays) for out in (first, second))
    np.testing.assert_array_equal(found, wanted)
    tell(CLIENT, "BERT, a quarter of the heads, chosen and refitted on data_config", "olive run", [])


def _searched(place: Path) -> None:
    metric = {
        "name": "size",
        "type": "size_on_disk",
        "sub_types": [{"name": "bytes", "priority": 1}],
    }
    searched = {
        "search_strategy": {"execution_order": "joint", "sampler": "sequential"},
        "evaluators": {"size": {"type": "OnnxEvaluator", "metrics": [metric]}},
        "evaluator": "size",
    }
    prune = {"type": "HeadPruning", "ratio": [0.25, 0.5], "method": ["measured", "ablation"]}
    out = _run(place, "searched", {"prune": prune}, **searched)
    runs = [
        node["pass_run_config"]
        for node in json.loads((out / "footprint.json").read_text()).values()
        if node["from_pass"] is not None
    ]
    points = {(run["ratio"], run["whole_groups"], run["method"]) for run in runs}
    # Without data there is no ablation, so these points are invalid and not run.
    assert points == {(ratio, whole, "measured") for ratio in (0.25, 0.5) for whole in (False, True)}, points
    tell(CLIENT, "BERT, a search over ratio, units and method", f"olive run, {len(points)} points", [])


def _composite(place: Path) -> None:
    folder = exports.encoder_decoder(place / "composite")
    # Olive makes a path of every word that is one: of the client's name, too.
    (place / "optimum").mkdir()
    names = ["decoder_model", "decoder_with_past_model"]
    parts = [
        {"type": "ONNXModel", "config": {"model_path": str(folder), "onnx_file_name": f"{name}.onnx"}}
        for name in names
    ]
    model = {
        "type": "CompositeModel",
        "config": {"model_components": parts, "model_component_names": names, "model_path": str(folder)},
    }
    prune = {"type": "HeadPruning", "heads": "0:1", "runtime": "optimum"}
    out = _run(place, "composite run", {"prune": prune, "quantize": QUANTIZE}, input_model=model)
    for name in names:
        session = onnxruntime.InferenceSession(str(out / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        caches = [item.shape[1] for item in session.get_outputs() if item.name.startswith("present")]
        assert set(caches) == {exports.toys.HEADS - 1}, caches
    before, after = (json.loads((where / "config.json").read_text()) for where in (folder, out))
    followed = [f"{key} {before[key]} -> {after[key]}" for key in after if before[key] != after[key]]
    assert followed
    tell(CLIENT, "two decoders with one cache, then Olive's dynamic quantization", "olive run", followed)


def _run(place: Path, name: str, passes: dict[str, Any], folder: Path | None = None, **more: Any) -> Path:
    """The folder that `olive run` leaves."""
    source = str(folder or place / "folder")
    cpu = [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}]
    document = {
        "input_model": {"type": "ONNXModel", "model_path": source, "onnx_file_name": "model.onnx"},
        "systems": {"here": {"type": "LocalSystem", "accelerators": cpu}},
        "host": "here",
        "target": "here",
        "passes": passes,
        "output_dir": str(place / f"{name} out"),
        "cache_dir": str(place / f"{name} cache"),
        **more,
    }
    config = place / f"{name}.json"
    config.write_text(json.dumps(document))
    olive = [str(Path(sys.executable).with_name("olive")), "run", "--config", str(config)]
    subprocess.run([*olive, "--package-config", str(place / "package.json")], cwd=place, check=True)
    return place / f"{name} out"


def _side_files(place: Path, out: Path) -> None:
    for name in SIDE:
        assert (out / name).read_bytes() == (place / "folder" / name).read_bytes(), name


def _hidden(folder: Path, stored: Any) -> Any:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    ids = stored["input_ids"]
    feed = {
        "input_ids": ids,
        "attention_mask": stored["attention_mask"],
        "token_type_ids": np.zeros_like(ids),
    }
    return session.run(None, feed)[0]


if __name__ == "__main__":
    main()
