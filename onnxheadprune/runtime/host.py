"""Facts about the machine: processor, load, NVIDIA cards. Nothing here needs a driver to be there."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxheadprune.model.typed_json import JsonObject

SMI = (
    "nvidia-smi",
    "--query-gpu=name,driver_version,memory.total,compute_cap",
    "--format=csv,noheader,nounits",
)


@dataclass(frozen=True)
class Card(JsonObject):
    """One NVIDIA card."""

    name: str  # what the driver calls it
    driver: str  # version of the driver
    memory_mib: int | None  # its memory in MiB, None where unknown
    compute_capability: str | None  # "9.0" and the like, None where the driver does not tell


def cards() -> tuple[Card, ...]:
    """The NVIDIA cards that the driver shows; none where there is no driver."""
    try:
        result = subprocess.run(SMI, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return read_smi(result.stdout) if result.returncode == 0 else ()


def read_smi(text: str) -> tuple[Card, ...]:
    """Cards from the CSV that `nvidia-smi` prints."""
    rows = [[field.strip() for field in line.split(",")] for line in text.splitlines() if line.strip()]
    return tuple(
        Card(row[0], row[1], int(row[2]) if row[2].isdigit() else None, row[3] if "." in row[3] else None)
        for row in rows
        if len(row) == 4
    )


def cuda_of_driver() -> str | None:
    """The newest CUDA version that the installed driver supports, None where there is no driver."""
    with suppress(OSError, subprocess.TimeoutExpired):
        result = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=20, check=False)
        found = re.search(r"CUDA Version:\s*([\d.]+)", result.stdout)
        return None if found is None else found[1]
    return None


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _load() -> float | None:
    """Average number of running processes over the last minute, None where the system does not tell."""
    with suppress(OSError, AttributeError):
        return os.getloadavg()[0]
    return None


def machine() -> dict[str, Any]:
    """Processor, cores, load and system, JSON-ready."""
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "load_average": _load(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cards": [card.to_dict() for card in cards()],
    }


def _processor() -> str:
    with suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if found is not None:
            return found[1].strip()
    return platform.processor() or platform.machine()
