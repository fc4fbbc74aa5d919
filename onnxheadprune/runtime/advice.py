"""What to install so that an execution provider runs."""

from __future__ import annotations

from onnxheadprune.runtime import CUDA, SUFFIX

_CUDA_ADVICE = (
    'install "onnxheadprune[cuda]" (it brings CUDA and cuDNN) next to an NVIDIA driver, without the plain'
    " onnxruntime package beside it"
)
_PACKAGES = {
    "Azure": "nothing needs to be installed: it only calls models on servers and runs no operator here",
    "Tensorrt": 'install "onnxheadprune[cuda]" and TensorRT (pip install tensorrt), next to an NVIDIA driver',
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
    """One sentence, without a capital letter and a full stop.

    Args:
        name: ONNX Runtime's name of the provider.
        obstacle: why it does not run.
        driver: whether an NVIDIA driver is installed, None if nobody looked.
        plain_beside: whether the plain `onnxruntime` package is installed next to `onnxruntime-gpu`.
    """
    if name != CUDA:
        short = name.removesuffix(SUFFIX)
        return _PACKAGES.get(short, f"install an onnxruntime built with {name} and its libraries")
    if plain_beside:
        return (
            "remove both packages (pip uninstall onnxruntime onnxruntime-gpu), then install"
            ' "onnxheadprune[cuda]": the plain one hides the other'
        )
    sentence = _CUDA_ADVICE
    if "built without" in obstacle:
        sentence = f"remove the onnxruntime package (pip uninstall onnxruntime), then {sentence}"
    if driver is False:
        sentence += "; no NVIDIA driver answers here (nvidia-smi)"
    return sentence
