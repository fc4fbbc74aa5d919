"""The installed ONNX Runtime, and the CUDA libraries beside it. Nothing is imported for it."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

_ORT = re.compile(r"^(onnxruntime|ort)(-[a-z0-9-]+)?$")
_NOT_ORT = re.compile(r"^onnxruntime-(extensions|genai|tools|stubs).*")
_LIBRARIES = re.compile(
    r"^(nvidia-(cuda-runtime|cublas|cudnn|cufft|curand|cuda-nvrtc)(-cu\d+)?|tensorrt(-cu\d+)?)$"
)
_LOADED = re.compile(r"\S*/(lib(?:cudart|cublas|cublasLt|cudnn|nvinfer)\.so[\d.]*)$", re.MULTILINE)
_CUDNN = "cudnn64_9.dll" if sys.platform == "win32" else "libcudnn.so.9"
_MAPS = Path("/proc/self/maps")


def runtimes(distributions: Iterable[metadata.Distribution] | None = None) -> dict[str, str]:
    """Versions of all installed packages that bring the module `onnxruntime`, by name.

    More than one is a mistake: their files lie in the same folder, and the last one installed wins.
    """
    found = installed(distributions)
    return {name: version for name, version in found.items() if _ORT.match(name) and not _NOT_ORT.match(name)}


def cuda_libraries(distributions: Iterable[metadata.Distribution] | None = None) -> dict[str, str]:
    """Versions of the pip packages that `onnxruntime.preload_dlls()` looks into, by name."""
    return {name: version for name, version in installed(distributions).items() if _LIBRARIES.match(name)}


def installed(distributions: Iterable[metadata.Distribution] | None = None) -> dict[str, str]:
    """Versions of all installed packages by name."""
    found = {}
    for item in metadata.distributions() if distributions is None else distributions:
        name = item.metadata["Name"]
        if name:
            found[canonical(name)] = item.version
    return dict(sorted(found.items()))


def canonical(name: str) -> str:
    """The one spelling of a package's name: "onnx-graphsurgeon" for "onnx_graphsurgeon"."""
    return re.sub(r"[-_.]+", "-", name).lower()


def loaded_libraries() -> dict[str, str]:
    """Paths of the CUDA, cuDNN and TensorRT libraries of this process, by file name; empty where nobody tells."""
    if not _MAPS.is_file():
        return {}
    paths = (match for match in _LOADED.finditer(_MAPS.read_text(errors="replace")))
    return {match[1]: match[0].strip() for match in paths}


def cudnn_version() -> str | None:
    """The version of the cuDNN 9 that is found after `preload_dlls()`, None where there is none."""
    try:
        number = int(ctypes.CDLL(_CUDNN).cudnnGetVersion())
    except (OSError, AttributeError):
        return None
    return read_cudnn(number)


def read_cudnn(number: int) -> str:
    """The number that cuDNN 9 gives as its version (91002) as people write it ("9.10.2")."""
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
