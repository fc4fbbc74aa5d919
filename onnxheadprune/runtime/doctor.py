"""`doctor`: what is installed or missing, and which execution providers really run."""

from __future__ import annotations

import ctypes
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import onnx

from onnxheadprune.model.typed_json import JsonObject
from onnxheadprune.runtime import CUDA, Provider, onnx_runtime
from onnxheadprune.runtime.host import Card, cards, cuda_of_driver, usable_cores
from onnxheadprune.runtime.providers import AUTO, advice, full_name, probe, resolve_provider

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
    found = _installed(distributions)
    return {name: version for name, version in found.items() if _ORT.match(name) and not _NOT_ORT.match(name)}


def cuda_libraries(distributions: Iterable[metadata.Distribution] | None = None) -> dict[str, str]:
    """Versions of the pip packages that `onnxruntime.preload_dlls()` looks into, by name."""
    return {name: version for name, version in _installed(distributions).items() if _LIBRARIES.match(name)}


def _installed(distributions: Iterable[metadata.Distribution] | None = None) -> dict[str, str]:
    """Versions of all installed packages by name."""
    found = {}
    for item in metadata.distributions() if distributions is None else distributions:
        name = item.metadata["Name"]
        if name:
            found[_canonical(name)] = item.version
    return dict(sorted(found.items()))


def _canonical(name: str) -> str:
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


_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)[^;]*?(?:>=\s*([0-9.]+))?[^;]*(;.*)?$")
_RUNTIME = "onnxruntime"


def unmet(
    runtime: str, needs: Iterable[str] | None = None, versions: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Requirements that do not hold, as in "tokenizers>=0.19 (there is none)"."""
    there = _installed() if versions is None else versions
    wanted: dict[str, str] = {}
    for need in _declared() if needs is None else needs:
        found = _REQUIREMENT.match(need)
        if found is not None and "extra" not in (found[3] or ""):
            name = _canonical(found[1])
            wanted[_RUNTIME if name.startswith(_RUNTIME) else name] = found[2] or "0"
    for name, lowest in sorted(wanted.items()):
        version = runtime if name == _RUNTIME else there.get(name)
        if version is None or _numbers(version) < _numbers(lowest):
            has = "there is none" if version is None else f"there is {version}"
            yield f"{name}>={lowest} ({has})"


def _declared() -> list[str]:
    """Of this package; none where it was not installed but lies in the path."""
    try:
        return metadata.requires("onnxheadprune") or []
    except metadata.PackageNotFoundError:
        return []


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version: (1, 27, 0) of "1.27.0.dev3+cu13"; zeros at the end say nothing."""
    release = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in release[0].split(".")] if release else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


_WITHOUT = "built without it"
NVIDIA = (CUDA, "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")


@dataclass(frozen=True)
class ProviderCheck:
    """One execution provider, tried on a model of one node."""

    name: str  # ONNX Runtime's name of it
    runs: bool  # whether the model ran there, and nowhere else
    obstacle: str | None  # why it did not, None if it did
    advice: str | None  # what to install, None if nothing is missing


@dataclass(frozen=True)
class Diagnosis(JsonObject):
    """The findings of `doctor`."""

    versions: Mapping[str, str]  # of Python, onnx and onnxruntime
    # installed packages that bring `onnxruntime`, with versions; one is right
    runtime_packages: Mapping[str, str]
    built_for_cuda: str | None  # the CUDA version that onnxruntime was built for, None for builds without
    cudnn: str | None  # version of the cuDNN that is found, None without one
    cuda_packages: Mapping[str, str]  # pip packages with CUDA, cuDNN and TensorRT libraries
    loaded_libraries: Mapping[str, str]  # where those libraries were really loaded from
    driver_cuda: str | None  # the newest CUDA version that the driver supports, None without a driver
    cards: tuple[Card, ...]  # NVIDIA cards
    cores: int  # processor cores that this process may use
    providers: tuple[ProviderCheck, ...]  # those of this build, then others that were asked for
    auto: Provider  # what `--provider auto` takes, and why
    warnings: tuple[str, ...]  # what is wrong with the installation, one sentence each

    def check(self, asked: str) -> ProviderCheck:
        """The check of one provider by its short or full name."""
        name = full_name(asked)
        return next(item for item in self.providers if item.name == name)


def diagnose(*asked: str) -> Diagnosis:
    """Look at the installation and try every execution provider of this build."""
    ort = onnx_runtime()
    packages, found = runtimes(), cards()
    names = list(dict.fromkeys([*ort.get_available_providers(), *(full_name(a) for a in asked if a != AUTO)]))
    checks = tuple(_check(name, packages, bool(found)) for name in names)
    versions = {
        "python": platform.python_version(),
        "onnx": onnx.__version__,
        "onnxruntime": str(ort.__version__),
    }
    built_for = getattr(ort, "cuda_version", None) or None
    driver_cuda = cuda_of_driver()
    return Diagnosis(
        versions,
        packages,
        built_for,
        cudnn_version(),
        cuda_libraries(),
        loaded_libraries(),
        driver_cuda,
        found,
        usable_cores(),
        checks,
        resolve_provider(AUTO),
        (
            *_warnings(packages, built_for, driver_cuda, bool(found)),
            *_lacking(versions["onnxruntime"]),
        ),
    )


def _check(name: str, packages: Mapping[str, str], driver: bool) -> ProviderCheck:
    obstacle = probe(name)
    if obstacle is None:
        return ProviderCheck(name, True, None, None)
    beside = {"onnxruntime", "onnxruntime-gpu"} <= packages.keys()
    hint = advice(name, obstacle, driver=driver if name in NVIDIA else None, plain_beside=beside)
    return ProviderCheck(name, False, obstacle, hint)


def _warnings(
    packages: Mapping[str, str], built_for: str | None, driver_cuda: str | None, driver: bool
) -> list[str]:
    found = []
    if len(packages) > 1:
        listed = " and ".join(f"{name} {version}" for name, version in packages.items())
        found.append(
            f"{listed} are installed at once: their files overwrite each other, and providers disappear; remove"
            f" all of them (pip uninstall {' '.join(packages)}), then install the one that is wanted"
        )
    if built_for and driver_cuda and _major(driver_cuda) < _major(built_for):
        found.append(
            f"onnxruntime was built for CUDA {built_for}, and the driver supports CUDA {driver_cuda} at most: update"
            " the driver"
        )
    if driver and not built_for:
        found.append(f"there is an NVIDIA GPU, and this onnxruntime cannot use it: {advice(CUDA, _WITHOUT)}")
    return found


def _lacking(runtime: str) -> Iterator[str]:
    """A sentence if dependencies are missing, as after an installation without them."""
    missing = list(unmet(runtime))
    if missing:
        yield f"onnxheadprune needs {', '.join(missing)}: install what is missing (pip install {_quoted(missing)})"


def _quoted(missing: list[str]) -> str:
    return " ".join(f'"{item.split()[0]}"' for item in missing)


def _major(version: str) -> int:
    head = version.split(".")[0]
    return int(head) if head.isdigit() else 0
