"""The machine: processor, NVIDIA GPUs, installed packages, and the execution providers that really run here.

Asking onnxruntime is not enough: it lists what it was built with. No function needs a driver to be there.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import ModelProto

from onnxheadprune.display.displayed import Displayed
from onnxheadprune.display.facts import Fact, Facts, Part, State, Table, Word
from onnxheadprune.display.spelling import many
from onnxheadprune.errors import ProviderError, heed, installation
from onnxheadprune.model.typed_json import JsonObject
from onnxheadprune.runtime.foreign import STREAMS
from onnxheadprune.runtime.session import CPU, CUDA, FATAL_ONLY, SUFFIX, Provider, onnx_runtime, sentence

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


_CUDA = installation("cuda")
_CUDA_ADVICE = (
    f"install ONNX Runtime with CUDA and cuDNN ({_CUDA}) next to an NVIDIA driver, without the plain onnxruntime"
    " package beside it"
)
_PACKAGES = {
    "Azure": "nothing needs to be installed: it only calls models on servers and runs no operator here",
    "Tensorrt": f"install ONNX Runtime with CUDA and TensorRT ({_CUDA} tensorrt), next to an NVIDIA driver",
    "NvTensorRTRTX": "install onnxruntime-trt-rtx and TensorRT for RTX, next to an NVIDIA driver",
    "Dml": "on Windows, install onnxruntime-directml in place of every other onnxruntime package",
    "CoreML": "on macOS, install onnxruntime; CoreML is part of that build",
    "OpenVINO": "install onnxruntime-openvino in place of every other onnxruntime package",
    "MIGraphX": "install onnxruntime-migraphx in place of every other onnxruntime package, next to ROCm",
    "ROCM": "install onnxruntime-rocm in place of every other onnxruntime package, next to ROCm",
    "QNN": "on a Snapdragon machine, install onnxruntime-qnn in place of every other onnxruntime package",
    "VitisAI": "install onnxruntime-vitisai in place of every other onnxruntime package",
    "CANN": "install onnxruntime-cann in place of every other onnxruntime package, next to CANN",
    "WebGpu": "install onnxruntime-webgpu in place of every other onnxruntime package",
}


def advice(name: str, obstacle: str = "", *, driver: bool | None = None, plain_beside: bool = False) -> str:
    """One sentence, without a capital letter and a full stop."""
    if name != CUDA:
        short = name.removesuffix(SUFFIX)
        return _PACKAGES.get(short, f"install an onnxruntime built with {name} and its libraries")
    if plain_beside:
        return (
            f"remove both packages (pip uninstall onnxruntime onnxruntime-gpu), then install one ({_CUDA}): the plain"
            " one hides the other"
        )
    sentence = _CUDA_ADVICE
    if "built without" in obstacle:
        sentence = f"remove the onnxruntime package (pip uninstall onnxruntime), then {sentence}"
    if driver is False:
        sentence += "; no NVIDIA driver answers here (nvidia-smi)"
    return sentence


AUTO = "auto"
_ALIASES = {
    "gpu": ("CUDA",),
    "directml": ("Dml",),
    "trt": ("Tensorrt",),
    "rtx": ("NvTensorRTRTX",),
    # ONNX Runtime replaced its ROCm provider by MIGraphX; older builds still have the former.
    "rocm": ("ROCM", "MIGraphX"),
    "onednn": ("Dnnl",),
}
_MISSING_LIBRARY = re.compile(r"with error: (?:Error loading )?\"?([^\n\"]+)")


def resolve_provider(asked: str | Provider = AUTO) -> Provider:
    """The provider to run on.

    Args:
        asked: "auto" (CUDA if a probe really runs there, else CPU), "cpu", "cuda", the name of any
            other provider, short ("tensorrt") or in full, or one that is resolved already.
    """
    if isinstance(asked, Provider):
        return asked
    if asked.lower() == AUTO:
        obstacle = probe(CUDA)
        if obstacle is None:
            return Provider(CUDA, "a probe ran on it")
        return _without_cuda(obstacle)
    name = full_name(asked)
    obstacle = None if name == CPU else probe(name)
    if obstacle is not None:
        raise ProviderError(f"{name} does not run here: {obstacle}; {advice(name)}, or use `provider=cpu`")
    return Provider(name, "asked for")


def _without_cuda(obstacle: str) -> Provider:
    """The CPU; a GPU that is there and cannot be used is a reason to warn, none is not."""
    visible = _gpus()
    if not visible:
        return Provider(CPU, "no GPU is visible")
    reason = f"{visible[0].name} is there, but CUDA does not run: {obstacle}"
    return Provider(CPU, reason, warning=f"{reason}; {advice(CUDA, obstacle)}")


_gpus = functools.cache(cards)


def full_name(asked: str) -> str:
    """ONNX Runtime's name of a provider; names it does not know pass through."""
    known = {name.removesuffix(SUFFIX).lower(): str(name) for name in onnx_runtime().get_all_providers()}
    short = asked.lower().removesuffix(SUFFIX.lower())
    for wanted in _ALIASES.get(short, (short,)):
        if wanted.lower() in known:
            return known[wanted.lower()]
    return asked if asked.endswith(SUFFIX) else f"{asked}{SUFFIX}"


@functools.cache
def probe(name: str) -> str | None:
    """Return why a provider cannot run, None if a one-node model really ran on it."""
    ort = onnx_runtime()
    if name not in ort.get_available_providers():
        return f"the installed {getattr(ort, 'package_name', 'onnxruntime')} is built without it"
    with _captured_output() as log:
        try:
            if name == CUDA and hasattr(ort, "preload_dlls"):
                ort.preload_dlls()
            options = ort.SessionOptions()
            if name != CPU:
                options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            session = ort.InferenceSession(
                _one_node_model().SerializeToString(), options, providers=[name], enable_fallback=0
            )
            obstacle = None if name in session.get_providers() else "it was not initialised"
            if obstacle is None:
                session.run(None, {"x": np.ones((2, 2), dtype=np.float32)})
        except Exception as error:  # onnxruntime's exceptions share no base class
            heed(error)
            obstacle = sentence(error)
    missing = _MISSING_LIBRARY.search("".join(log))
    return obstacle if obstacle is None or missing is None else missing[1].strip()


def _one_node_model() -> ModelProto:
    model: ModelProto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13]> probe (float[2, 2] x) => (float[2, 2] y) { y = MatMul(x, x) }'
    )
    return model


@contextlib.contextmanager
def _captured_output() -> Iterator[list[str]]:
    """Collect what native libraries write to stderr: only there do they name a missing library.

    The list is filled when the context ends.
    """
    ort = onnx_runtime()
    written: list[str] = []
    with STREAMS, tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(log.fileno(), 2)
        ort.set_default_logger_severity(3)
        try:
            with contextlib.redirect_stdout(log):
                yield written
        finally:
            ort.set_default_logger_severity(FATAL_ONLY)
            os.dup2(kept, 2)
            os.close(kept)
            log.flush()
            log.seek(0)
            written.append(log.read())


_ORT = re.compile(r"^(onnxruntime|ort)(-[a-z0-9-]+)?$")
_NOT_ORT = re.compile(r"^onnxruntime-(extensions|genai|tools|stubs).*")
_LIBRARIES = re.compile(
    r"^(nvidia-(cuda-runtime|cublas|cudnn|cufft|curand|cuda-nvrtc)(-cu\d+)?|tensorrt(-cu\d+)?)$"
)
_LOADED = re.compile(r"\S*/(lib(?:cudart|cublas|cublasLt|cudnn|nvinfer)\.so[\d.]*)$", re.MULTILINE)
_CUDNN = "cudnn64_9.dll" if sys.platform == "win32" else "libcudnn.so.9"
_MAPS = Path("/proc/self/maps")


def runtimes(installed: Mapping[str, str]) -> dict[str, str]:
    """Versions of all packages that bring the module `onnxruntime`, by name.

    More than one is a mistake: their files lie in the same folder, and the last one installed wins.
    """
    return {name: installed[name] for name in installed if _ORT.match(name) and not _NOT_ORT.match(name)}


def cuda_libraries(installed: Mapping[str, str]) -> dict[str, str]:
    """Versions of the pip packages that `onnxruntime.preload_dlls()` looks into, by name."""
    return {name: installed[name] for name in installed if _LIBRARIES.match(name)}


def installed_packages(distributions: Iterable[metadata.Distribution]) -> dict[str, str]:
    """Versions of packages by name."""
    named = ((item.metadata["Name"], item.version) for item in distributions)
    return dict(sorted((_canonical(name), version) for name, version in named if name))


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


def unmet(runtime: str, needs: Iterable[str], installed: Mapping[str, str]) -> Iterator[str]:
    """Requirements that do not hold, as in "tokenizers>=0.19 (there is none)"."""
    wanted: dict[str, str] = {}
    for need in needs:
        found = _REQUIREMENT.match(need)
        if found is not None and "extra" not in (found[3] or ""):
            name = _canonical(found[1])
            wanted[_RUNTIME if name.startswith(_RUNTIME) else name] = found[2] or "0"
    for name, lowest in sorted(wanted.items()):
        version = runtime if name == _RUNTIME else installed.get(name)
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


NVIDIA = (CUDA, "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")


@dataclass(frozen=True)
class ProviderCheck:
    """One execution provider, tried on a model of one node."""

    name: str  # ONNX Runtime's name of it
    runs: bool  # whether the model ran there, and nowhere else
    obstacle: str | None  # why it did not, None if it did
    advice: str | None  # what to install, None if nothing is missing

    @property
    def row(self) -> tuple[str, Word, str]:
        """Its row in a table: whether it runs, or why it does not."""
        name, state = self.name.removesuffix(SUFFIX), Word("yes", "good") if self.runs else Word("no", "bad")
        return name, state, "" if self.runs else f"{self.obstacle}; {_COMMAND.sub('', self.advice or '')}"


@dataclass(frozen=True)
class Diagnosis(Displayed):
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

    def facts(self) -> Facts:
        """The provider that is taken, versions and cards, then the providers with what they lack."""
        state: State = "open" if self.auto.warning is None else "doubtful"
        return Facts(
            "doctor", f"auto takes {self.auto.label}: {self.auto.reason}", state, tuple(self._parts())
        )

    def _parts(self) -> Iterator[Part]:
        yield Fact("versions", _listed(self.versions))
        yield Fact("package", _listed(self.runtime_packages) or "onnxruntime was not installed by pip")
        yield Fact("GPUs", self._cards())
        yield Fact("CUDA", self._cuda())
        yield Fact("processor", many(self.cores, "core"))
        columns = ("provider", "runs", "why not, and what to do")
        yield Table(columns, tuple(check.row for check in self.providers), wraps=columns[2:])
        for check in self.providers:
            yield from _commands(check.name.removesuffix(SUFFIX), check.advice or "")
        for warning in self.warnings:
            yield Fact("warning", _COMMAND.sub("", warning), "doubtful")
            yield from _commands("", warning)

    def _cards(self) -> str:
        if not self.cards:
            return "no NVIDIA driver answers (nvidia-smi)"
        cards = (card.name + (f", {card.memory_mib} MiB" if card.memory_mib else "") for card in self.cards)
        driver = self.cards[0].driver
        return f"{'; '.join(cards)}; driver {driver}, for CUDA up to {self.driver_cuda or '?'}"

    def _cuda(self) -> str:
        built = f"built for CUDA {self.built_for_cuda}" if self.built_for_cuda else "built without CUDA"
        packages = _listed(self.cuda_packages) or "no pip package with CUDA or cuDNN libraries"
        loaded = ", ".join(self.loaded_libraries.values())
        cudnn = f"cuDNN {self.cudnn}" if self.cudnn else "no cuDNN found"
        return f"onnxruntime is {built}; {cudnn}; {packages}" + (f"; loaded {loaded}" if loaded else "")


_COMMAND = re.compile(r" \((pip [^()]+)\)")


def _commands(label: str, advice: str) -> Iterator[Fact]:
    """The commands in an advice, each of its own, so that it can be pasted at every width."""
    return (Fact(label, found, is_command=True) for found in _COMMAND.findall(advice))


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def diagnose(*asked: str) -> Diagnosis:
    """Look at the installation and try every execution provider of this build."""
    ort = onnx_runtime()
    installed, found = installed_packages(metadata.distributions()), cards()
    packages = runtimes(installed)
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
        cuda_libraries(installed),
        loaded_libraries(),
        driver_cuda,
        found,
        usable_cores(),
        checks,
        resolve_provider(AUTO),
        (
            *_warnings(packages, built_for, driver_cuda, bool(found)),
            *_lacking(list(unmet(versions["onnxruntime"], _declared(), installed))),
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
        found.append(
            f"there is an NVIDIA GPU, and this onnxruntime cannot use it: {advice(CUDA, 'built without it')}"
        )
    return found


def _lacking(missing: Sequence[str]) -> Iterator[str]:
    """A sentence if dependencies are missing, as after an installation without them."""
    if missing:
        quoted = " ".join(f'"{item.split()[0]}"' for item in missing)
        yield f"onnxheadprune needs {', '.join(missing)}: install what is missing (pip install {quoted})"


def _major(version: str) -> int:
    head = version.split(".")[0]
    return int(head) if head.isdigit() else 0
