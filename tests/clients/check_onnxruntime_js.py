"""onnxruntime-node and onnxruntime-web run pruned folders, and give what the masked original gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from browser import chromium, posted
from environment import tell
from samples import Pruned, pruned_folders

NODE = Path(os.environ["CLIENT_NODE"])
HERE = Path(__file__).parent
CLOSE = 1e-4
BESIDE = ("digits ViT, uneven", "digits ViT, refitted", "character GPT, heads, neurons and a layer")
"""What is also pruned with the weights beside the model."""


def main() -> None:
    """Every cut in every one, some also with the weights beside the model."""
    browser = chromium()
    if browser is None:
        print("there is no Chromium, so onnxruntime-web runs in Node.js alone", file=sys.stderr)
    # Packages are looked for from where the script is.
    script = NODE / "run_onnxruntime.mjs"
    script.write_bytes((HERE / script.name).read_bytes())
    for external, suffix, among in (("never", "", None), ("always", ", weights beside the model", BESIDE)):
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            options = ("--external-data", external, "--data-name", "{}_data")
            for pruned in pruned_folders(place / "models", "ort", *options, among=among):
                assert pruned.model.with_name("model.onnx_data").exists() == (external == "always")
                _check(pruned, suffix, script, place, browser)


def _check(pruned: Pruned, suffix: str, script: Path, place: Path, browser: str | None) -> None:
    feed = place / "feed.json"
    feed.write_text(json.dumps({name: _tensor(array) for name, array in pruned.feed.items()}))
    for package in ("onnxruntime-node", "onnxruntime-web"):
        words = ["node", str(script), package, str(pruned.model), str(feed)]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        line = next(line for line in done.stdout.splitlines() if line.startswith("outputs: "))
        pruned.like(_array(json.loads(line.removeprefix("outputs: "))), CLOSE)
        where = " (wasm in Node.js)" if package == "onnxruntime-web" else ""
        tell(f"{package} {_version(package)}{where}", pruned.name + suffix, "outputs", [])
    if browser is not None:
        served = {
            "run_onnxruntime.html": HERE / "run_onnxruntime.html",
            "node_modules": NODE / "node_modules",
            "model": pruned.model.parent,
        }
        for name, target in served.items():
            (place / name).unlink(missing_ok=True)
            (place / name).symlink_to(target)
        found = posted(browser, place, "run_onnxruntime.html")
        assert "error" not in found, found
        pruned.like(_array(found), CLOSE)
        client = f"onnxruntime-web {_version('onnxruntime-web')} (wasm in {_browser_version(browser)})"
        tell(client, pruned.name + suffix, "outputs", [])


def _tensor(array: Any) -> dict[str, Any]:
    kind = "int64" if array.dtype == np.int64 else "float32"
    return {"type": kind, "dims": array.shape, "data": array.reshape(-1).tolist()}


def _array(found: dict[str, Any]) -> Any:
    return np.array(found["data"], np.float32).reshape(found["dims"])


def _version(package: str) -> str:
    document = json.loads((NODE / "node_modules" / package / "package.json").read_text())
    return str(document["version"])


def _browser_version(browser: str) -> str:
    told = subprocess.run([browser, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return " ".join(told.split()[:2])


if __name__ == "__main__":
    main()
