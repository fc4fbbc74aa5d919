"""An environment of its own for each client, with the client's packages and this one beside them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

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
RESULT = "result: "
LEFT_OUT = 77
"""Exit code of a script whose client cannot be had on this machine."""


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
        subprocess.run([*pip, *packages, *OURS], check=True)
        subprocess.run([*pip, "--no-deps", "-e", str(ROOT)], check=True)
        mark.write_text(wanted)
    return python


def run(name: str, packages: Sequence[str], check: str) -> int:
    """Runs a check in an environment, and prints what it found.

    Args:
        name: of the environment.
        packages: of the client.
        check: the module beside this one.

    Returns:
        The exit code.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OLIVE_DISABLE_TELEMETRY": "1",
    }
    python = python_of(name, packages)
    return subprocess.run(
        [str(python), str(Path(__file__).with_name(check))], env=environment, check=False
    ).returncode


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
