"""A folder with packages for Node.js for each client that runs there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from environment import LEFT_OUT, place

OLDEST = 20
"""The oldest Node.js with which the clients were run."""


def node_modules(name: str, packages: Sequence[str]) -> Path:
    """A folder with packages, which is made if there is none with these.

    Args:
        name: of the folder.
        packages: as npm takes them.

    Returns:
        The folder that has `node_modules`.

    Raises:
        SystemExit: with the code for scripts that are left out, if Node.js or its packages cannot be had here.
    """
    _leave_out(_why_no_node())
    folder = place() / name
    mark = folder / "packages"
    wanted = "\n".join(packages)
    if not mark.is_file() or mark.read_text() != wanted:
        _leave_out(_why_no_packages(packages[0]))
        print(f"making {folder}", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        # The packages bring the library for the CPU; what they would download is for cards.
        skip = {"ONNXRUNTIME_NODE_INSTALL": "skip", "ONNXRUNTIME_NODE_INSTALL_CUDA": "skip"}
        subprocess.run(["npm", "init", "-y"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        npm = ["npm", "install", "--no-audit", "--no-fund", *packages]
        subprocess.run(npm, cwd=folder, env={**os.environ, **skip}, check=True, stdout=subprocess.DEVNULL)
        mark.write_text(wanted)
    return folder


def _leave_out(reason: str | None) -> None:
    """Ends the script if there is a reason.

    Raises:
        SystemExit: with the code for scripts that are left out.
    """
    if reason is not None:
        print(f"{reason}, so what needs it is left out", file=sys.stderr)
        raise SystemExit(LEFT_OUT)


def _why_no_node() -> str | None:
    """Why nothing can run in Node.js here, None if it can."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        return f"there is no {' and no '.join(missing)} (apt-get install nodejs npm)"
    told = subprocess.run(["node", "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    major = re.match(r"v(\d+)", told)
    if major is None or int(major[1]) < OLDEST:
        return f"Node.js is {told.strip()}, older than {OLDEST}"
    return None


def _why_no_packages(package: str) -> str | None:
    """Why npm can install nothing here, None if it can."""
    asked = subprocess.run(["npm", "view", package, "version"], capture_output=True, text=True, check=False)
    if asked.returncode == 0:
        return None
    return f"npm does not find {package} ({(asked.stderr.strip().splitlines() or ['it says nothing'])[0]})"
