"""The clients, and an environment for each, with the client's packages and this one beside them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OURS = tuple(
    name
    for name in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    if not name.startswith("onnxruntime")
)
"""What the package needs but for ONNX Runtime, of which the client brings its own build."""
OPTIMUM = (
    "optimum-onnx>=0.1",
    "transformers<4.58",
    "torch>=2.6,<2.14",
    "sentence-transformers>=5,<6",
    "onnxruntime>=1.28",
)
"""Optimum's exporter knows transformers up to 4.57."""
ONNXRUNTIME = "onnxruntime>=1.28"
OLDEST_NODE = 20
"""The oldest Node.js with which the clients were run."""
WAITS = (5.0, 20.0)
"""Seconds before an installer is asked again."""
RESULT = "result: "


class LeftOutError(Exception):
    """A client cannot be had on this machine."""


@dataclass(frozen=True)
class Client:
    """What a client needs; `check_<name>.py` is what runs there.

    Attributes:
        environment: several may share one.
        packages: of the environment, as pip takes them.
        node: packages for Node.js, as npm takes them.
    """

    environment: str
    packages: Sequence[str]
    node: Sequence[str] = ()

    def prepared(self, name: str) -> tuple[list[str], dict[str, str]]:
        """Return the command that checks the client, and its environment, with everything installed.

        Raises:
            LeftOutError: Node.js or some package cannot be had here.
        """
        variables = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OLIVE_DISABLE_TELEMETRY": "1",
        }
        if self.node:
            variables["CLIENT_NODE"] = str(_node_modules(name, self.node))
        check = Path(__file__).with_name(f"check_{name.replace('-', '_')}.py")
        return [str(python_of(self.environment, self.packages)), str(check)], variables


CLIENTS = {
    "fastembed": Client("fastembed", ("fastembed>=0.7", ONNXRUNTIME)),
    "genai": Client(
        "genai", ("onnxruntime-genai>=0.9", ONNXRUNTIME, "transformers>=5", "torch>=2.6", "onnx-ir")
    ),
    "olive": Client("olive", ("olive-ai>=0.13", "requests", ONNXRUNTIME)),
    "onnxruntime-js": Client("onnxruntime", (ONNXRUNTIME,), ("onnxruntime-node", "onnxruntime-web")),
    "optimum": Client("optimum", OPTIMUM),
    "runtimes": Client("runtimes", ("openvino>=2025", ONNXRUNTIME)),
    "sentence-transformers": Client("optimum", OPTIMUM),
    "transformers-js": Client("optimum", OPTIMUM, ("@huggingface/transformers@4", "onnxruntime-node")),
}


def place() -> Path:
    """Where environments are kept: ONNXHEADPRUNE_CLIENTS, else the user's cache."""
    given = os.environ.get("ONNXHEADPRUNE_CLIENTS")
    return Path(given) if given else Path.home() / ".cache" / "onnxheadprune-clients"


def python_of(name: str, packages: Sequence[str]) -> Path:
    """The interpreter of an environment, which is made if there is none with these packages.

    Args:
        name: of the environment.
        packages: of the client, as pip takes them.
    """
    folder = place() / name
    python = folder / "bin" / "python"
    wanted = hashlib.sha256("\n".join((*packages, *OURS)).encode()).hexdigest()
    mark = folder / "packages"
    if not mark.is_file() or mark.read_text() != wanted:
        print(f"making {folder}", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "-q"]
        _install([*pip, *packages, *OURS])
        _install([*pip, "--no-deps", "-e", str(ROOT)])
        mark.write_text(wanted)
    return python


def _node_modules(name: str, packages: Sequence[str]) -> Path:
    """Return the folder that has `node_modules` with packages, which is made if there is none with these."""
    _require_node()
    folder = place() / name
    mark, wanted = folder / "packages", "\n".join(packages)
    if not mark.is_file() or mark.read_text() != wanted:
        print(f"making {folder}", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        # The packages bring the library for the CPU; what they would download is for GPUs.
        skip = {"ONNXRUNTIME_NODE_INSTALL": "skip", "ONNXRUNTIME_NODE_INSTALL_CUDA": "skip"}
        for words in (["init", "-y"], ["install", "--no-audit", "--no-fund", *packages]):
            _install(["npm", *words], cwd=folder, env={**os.environ, **skip})
        mark.write_text(wanted)
    return folder


def _install(command: list[str], **settings: Any) -> None:
    """Run an installer, which a registry that is busy may make fail at first.

    Raises:
        LeftOutError: it fails each time.
    """
    for wait in (*WAITS, None):
        done = subprocess.run(command, capture_output=True, text=True, check=False, **settings)
        if done.returncode == 0:
            return
        if wait is not None:
            time.sleep(wait)
    said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
    raise LeftOutError(f"`{' '.join(command)}` ends with {done.returncode}:\n{said}")


def _require_node() -> None:
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        raise LeftOutError(f"there is no {' and no '.join(missing)} (apt-get install nodejs npm)")
    told = subprocess.run(["node", "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    major = re.match(r"v(\d+)", told)
    if major is None or int(major[1]) < OLDEST_NODE:
        raise LeftOutError(f"Node.js is {told.strip()}, older than {OLDEST_NODE}")


def made_folder(place: Path) -> None:
    """A small encoder as a folder, with what it must give: `make_folder.py` in the environment of Optimum.

    Args:
        place: an empty folder.
    """
    python, script = python_of("optimum", OPTIMUM), Path(__file__).with_name("make_folder.py")
    subprocess.run([str(python), str(script), str(place)], check=True)


def tell(client: str, case: str, ran: str, followed: object) -> None:
    """One line of a check's result, which `all` reads.

    Args:
        client: and its versions.
        case: the model and the cut.
        ran: what was compared.
        followed: what had to change beside the model.
    """
    print(RESULT + json.dumps({"client": client, "case": case, "ran": ran, "followed": followed}), flush=True)
