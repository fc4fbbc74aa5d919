"""The execution providers that really run here, and what to install so that one does.

Asking onnxruntime is not enough: it lists what it was built with.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import tempfile
from collections.abc import Iterator

import numpy as np
import onnx.parser
from onnx import ModelProto

from onnxheadprune.errors import ProviderError, heed, installation, named_setting
from onnxheadprune.runtime import CPU, CUDA, FATAL_ONLY, SUFFIX, Provider, onnx_runtime, sentence
from onnxheadprune.runtime.foreign import STREAMS
from onnxheadprune.runtime.host import cards

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
        raise ProviderError(
            f"{name} does not run here: {obstacle}; {advice(name)}, or use {named_setting('provider', 'cpu')}"
        )
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
