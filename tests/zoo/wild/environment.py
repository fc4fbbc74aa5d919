"""Makes the environment of the wild zoo: ``python -m tests.zoo.wild.environment DIR`` and prints its interpreter.

The packages stand in the extra ``wild`` of pyproject.toml. They would disturb the other environments: some want
versions of their own, and together they take 3 GB.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[3]
TORCH = ("torch<=2.13.0", "torchvision")
ALONE = ("torchaudio>=2.8,<3", "torchscale>=0.3,<1")
"""Without what they ask for: torchaudio asks for torch's CUDA build, torchscale for a timm of 2023."""


def make(folder: Path) -> Path:
    """Makes the environment unless it is there, and returns its interpreter.

    Raises:
        subprocess.CalledProcessError: a package cannot be installed.
    """
    python = folder / "bin" / "python"
    done = folder / "wild.done"
    if done.exists():
        return python
    venv.create(folder, with_pip=True)
    # torch first, so that a build for the CPU that lies at hand is taken and stays.
    for arguments in (TORCH, ("--editable", f"{ROOT}[wild]"), ("--no-deps", *ALONE)):
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *arguments], check=True)
    for library in folder.glob("lib/python*/site-packages/torchaudio/lib/*.so"):
        library.unlink()  # linked with CUDA; without it, torchaudio's models are plain Python
    done.touch()
    return python


if __name__ == "__main__":
    sys.stdout.write(f"{make(Path(sys.argv[1]).absolute())}\n")
