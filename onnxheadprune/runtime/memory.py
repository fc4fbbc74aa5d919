"""Memory that a model takes, seen in a process of its own.

ONNX Runtime's arenas never shrink and a process has one peak only, so each measurement gets a fresh one.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxheadprune.errors import HeadPruneError
from onnxheadprune.model.storage.writing import temporary_folder
from onnxheadprune.model.tensors import Array
from onnxheadprune.model.typed_json import JsonObject
from onnxheadprune.runtime.bound import BoundOptions, BoundSession
from onnxheadprune.runtime.session import CUDA, Provider, onnx_runtime

CHILD = "from onnxheadprune.runtime.memory import _child; _child()"
RUNS = 3
_STATUS = Path("/proc/self/status")
ON_CUDA = "device memory that the driver lost to this process: weights, activations, workspaces"
ON_CPU = "peak resident memory while running, over the level before loading: weights and activations"


@dataclass(frozen=True)
class Footprint(JsonObject):
    """The memory that one model needs while it runs on one feed."""

    peak_bytes: int | None  # peak memory, None where it cannot be measured
    how: str  # what was measured, or why nothing was


def footprint(
    path: Path,
    provider: Provider,
    feed: Mapping[str, Array],
    *,
    threads: int | None = None,
    timeout: float = 300.0,
) -> Footprint:
    """Load and run a model in another process."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(item for item in sys.path if item)}
    with temporary_folder() as folder:
        answer = Path(folder, "answer")
        request = pickle.dumps((str(path), provider, dict(feed), threads, str(answer)))
        try:
            result = subprocess.run(
                [sys.executable, "-c", CHILD],
                input=request,
                env=environment,
                capture_output=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            return Footprint(None, f"not measured: the run took longer than {timeout:.0f} s")
        if not answer.is_file():
            return Footprint(None, f"not measured: the process that tried ended with {result.returncode}")
        peak, how = pickle.loads(answer.read_bytes())
    return Footprint(peak, how)


def _child() -> None:
    """Serve one request from stdin; the answer goes to the file that the request names."""
    path, provider, feed, threads, answer = pickle.loads(sys.stdin.buffer.read())
    try:
        found = _measure(Path(path), provider, feed, threads)
    except HeadPruneError as error:
        found = None, f"not measured: {error}"
    Path(answer).write_bytes(pickle.dumps(found))
    sys.stdout.flush()


def _measure(
    path: Path, provider: Provider, feed: Mapping[str, Array], threads: int | None
) -> tuple[int | None, str]:
    ort = onnx_runtime()
    options = BoundOptions(threads=threads, lean_arena=True)
    if provider.name == CUDA:
        ort.preload_dlls()
        before = _free_device_memory()
        _run(path, provider, options, feed)
        after = _free_device_memory()
        if before is None or after is None:
            return None, "not measured: the CUDA driver does not tell its free memory"
        return before - after, ON_CUDA
    start = _resident("VmRSS")
    kept = _run(path, provider, options, feed)
    peak = _resident("VmHWM")
    del kept
    if start is None or peak is None:
        return None, "not measured: this system does not tell a process its peak resident memory"
    return max(peak - start, 0), ON_CPU


def _run(path: Path, provider: Provider, options: BoundOptions, feed: Mapping[str, Array]) -> Any:
    """A few runs; what reading the file took for a moment is forgotten before."""
    session = BoundSession(path, provider, options)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    bound = session.bind(feed)
    for _ in range(RUNS):
        bound.run()
    return session, bound


def _resident(key: str) -> int | None:
    """A line of Linux's /proc/self/status in bytes."""
    if not _STATUS.is_file():
        return None
    found = re.search(rf"^{key}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    return None if found is None else int(found[1]) * 1024


def _free_device_memory() -> int | None:
    """Free bytes of the first card, asked of the driver; makes sure that the context exists already."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return None
    device, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    calls: tuple[tuple[Any, ...], ...] = (
        (driver.cuInit, 0),
        (driver.cuDeviceGet, ctypes.byref(device), 0),
        (driver.cuDevicePrimaryCtxRetain, ctypes.byref(context), device),
        (driver.cuCtxSetCurrent, context),
        (driver.cuMemGetInfo_v2, ctypes.byref(free), ctypes.byref(total)),
    )
    # The arguments of the later calls are filled by the earlier ones: one after the other.
    return int(free.value) if all(function(*arguments) == 0 for function, *arguments in calls) else None
