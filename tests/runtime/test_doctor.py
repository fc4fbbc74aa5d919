"""`doctor`: what it finds on machines of every kind, most of them made up here."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from onnxheadprune.cli.doctor import doctor_report
from onnxheadprune.reporting.console import Console, out
from onnxheadprune.runtime import CPU, CUDA, Provider
from onnxheadprune.runtime import doctor as doctor_module
from onnxheadprune.runtime import session as session_module
from onnxheadprune.runtime.doctor import (
    Diagnosis,
    ProviderCheck,
    cuda_libraries,
    diagnose,
    read_cudnn,
    runtimes,
    unmet,
)
from onnxheadprune.runtime.host import Card, cards, cuda_of_driver, machine, read_smi
from onnxheadprune.runtime.providers import advice
from tests.conftest import Command


class Distribution:
    """A package that is not installed."""

    def __init__(self, name: str, version: str) -> None:
        self.metadata, self.version = {"Name": name}, version


def pretend(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
    for name, answer in answers.items():
        monkeypatch.setattr(doctor_module, name, lambda *_, answer=answer: answer)


@pytest.mark.slow
def test_this_machine() -> None:
    found = diagnose()
    assert found.versions["onnxruntime"] == machine_versions()
    assert found.check("cpu").runs
    assert len(found.runtime_packages) == 1
    for check in found.providers:
        assert check.runs == (check.obstacle is None) == (check.advice is None)


def machine_versions() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def test_two_runtimes_at_once_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = {"onnxruntime": "1.31.0", "onnxruntime-gpu": "1.31.1"}
    pretend(monkeypatch, runtimes=packages, probe="built without it")
    found = diagnose("cuda")
    (warning,) = found.warnings
    assert "onnxruntime 1.31.0 and onnxruntime-gpu 1.31.1 are installed at once" in warning
    assert "pip uninstall onnxruntime onnxruntime-gpu" in warning
    cuda_advice = found.check("cuda").advice
    assert cuda_advice is not None and "remove both packages" in cuda_advice


NEEDS = (
    "click>=8.2",
    "onnx-graphsurgeon>=0.6.1",
    "tokenizers>=0.19",
    'onnxruntime-gpu>=1.27; sys_platform == "linux" and platform_machine == "x86_64"',
    'onnxruntime>=1.27; sys_platform != "linux"',
    'torch>=2.6; extra == "samples"',
)


def test_beside_another_build_of_the_runtime_nothing_is_missing() -> None:
    there = {"click": "8.2", "onnx-graphsurgeon": "0.6.1", "tokenizers": "1.0", "onnxruntime": "1.27.0"}
    assert list(unmet("1.27.0", NEEDS, there)) == []


def test_what_an_installation_without_dependencies_lacks_is_told() -> None:
    there = {"click": "8.1.9", "onnx-graphsurgeon": "0.10", "onnxruntime-openvino": "1.26"}
    assert list(unmet("1.26", NEEDS, there)) == [
        "click>=8.2 (there is 8.1.9)",
        "onnxruntime>=1.27 (there is 1.26)",
        "tokenizers>=0.19 (there is none)",
    ]


@pytest.mark.slow
def test_doctor_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [warning for warning in diagnose().warnings if "needs" in warning]
    monkeypatch.setattr(doctor_module, "unmet", lambda _: iter(["tokenizers>=0.19 (there is none)"]))
    (warning,) = [warning for warning in diagnose().warnings if "needs" in warning]
    assert warning.endswith('install what is missing (pip install "tokenizers>=0.19")')


def test_a_card_beside_a_runtime_that_cannot_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two builds at once must not come of the advice."""
    pretend(
        monkeypatch, cards=(Card("NVIDIA H100", "580.1", 81559, "9.0"),), runtimes={"onnxruntime": "1.31"}
    )
    monkeypatch.setattr(doctor_module.onnx_runtime(), "cuda_version", "", raising=False)
    (warning,) = [warning for warning in diagnose().warnings if "cannot use it" in warning]
    assert "pip uninstall onnxruntime" in warning


@pytest.mark.slow
def test_an_old_driver_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card("NVIDIA H100", "470.1", 81559, "9.0")
    pretend(monkeypatch, cards=(card,), cuda_of_driver="11.4")
    warnings = diagnose().warnings
    if doctor_module.onnx_runtime().cuda_version:
        assert any("update the driver" in warning for warning in warnings)
    else:
        assert any("cannot use it" in warning for warning in warnings)


@pytest.mark.slow
def test_everything_well(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card("NVIDIA H100", "580.1", 81559, "9.0")
    pretend(monkeypatch, cards=(card,), cuda_of_driver="13.0", probe=None, cudnn_version="9.10.2")
    found = diagnose("cuda")
    assert found.check("cuda").runs
    console = out()
    with console.capture() as captured:
        console.print(*doctor_report(found), sep="\n")
    assert "NVIDIA H100, 81559 MiB; driver 580.1, for CUDA up to 13.0" in captured.get()
    assert "cuDNN 9.10.2" in captured.get()


def test_packages_are_told_by_name() -> None:
    names = (
        "onnxruntime_gpu",
        "onnxruntime-extensions",
        "onnxruntime-genai-cuda",
        "onnx",
        "nvidia-cudnn-cu13",
        "nvidia-cublas",
        "onnxruntime.openvino",
        "tensorrt-cu13",
    )
    installed: Any = [Distribution(name, "1") for name in names]
    assert list(runtimes(installed)) == ["onnxruntime-gpu", "onnxruntime-openvino"]
    assert list(cuda_libraries(installed)) == ["nvidia-cublas", "nvidia-cudnn-cu13", "tensorrt-cu13"]
    assert set(runtimes()) <= {str(item.metadata["Name"]) for item in metadata.distributions()}


def test_numbers_of_cudnn() -> None:
    assert read_cudnn(91002) == "9.10.2"


def test_cards_are_read() -> None:
    text = "NVIDIA H100 80GB HBM3, 580.65.06, 81559, 9.0\nTesla T4, 535.1, [N/A], [N/A]\n\nbroken line\n"
    assert read_smi(text) == (
        Card("NVIDIA H100 80GB HBM3", "580.65.06", 81559, "9.0"),
        Card("Tesla T4", "535.1", None, None),
    )


@pytest.mark.parametrize("failure", [FileNotFoundError(), subprocess.TimeoutExpired("nvidia-smi", 20)])
def test_no_driver_is_no_error(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def run(*_: Any, **__: Any) -> Any:
        raise failure

    monkeypatch.setattr(subprocess, "run", run)
    assert cards() == ()
    assert cuda_of_driver() is None
    assert machine()["cards"] == []


def test_a_driver_that_fails_shows_no_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess("nvidia-smi", 9, "NVIDIA-SMI has failed, 1, 2, 3", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    assert cards() == ()


def test_the_machine_is_json() -> None:
    import json

    found = json.loads(json.dumps(machine()))
    assert found["cores"] >= 1


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (CUDA, {"driver": False}, "no NVIDIA driver answers"),
        (CUDA, {"driver": False, "obstacle": "built without it"}, "pip uninstall onnxruntime"),
        ("AzureExecutionProvider", {}, "nothing needs to be installed"),
        (CUDA, {"obstacle": "the installed onnxruntime is built without it"}, "pip uninstall onnxruntime"),
        (CUDA, {}, "onnxruntime-gpu[cuda,cudnn]"),
        ("OpenVINOExecutionProvider", {}, "onnxruntime-openvino"),
        ("DmlExecutionProvider", {}, "onnxruntime-directml"),
        ("StrangeExecutionProvider", {}, "built with StrangeExecutionProvider"),
    ],
)
def test_advice_names_packages(name: str, options: dict[str, Any], words: str) -> None:
    assert words in advice(name, **options)


@pytest.mark.parametrize("width", [40, 50, 80, 120])
def test_commands_can_be_pasted_at_every_width(width: int) -> None:
    cuda, obstacle = "CUDAExecutionProvider", "the installed onnxruntime is built without it"
    advices = (advice(cuda, obstacle), advice(cuda, plain_beside=True), advice("TensorrtExecutionProvider"))
    checks = tuple(ProviderCheck(cuda, False, obstacle, words) for words in advices)
    found = Diagnosis(
        versions={},
        runtime_packages={},
        built_for_cuda="",
        cards=(),
        driver_cuda=None,
        loaded_libraries={},
        cudnn=None,
        cuda_packages={},
        providers=checks,
        auto=Provider(CPU, "no GPU is visible"),
        warnings=(advices[1],),
        cores=1,
    )
    console = Console(width=width, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(*doctor_report(found), sep="\n")
    # A shell takes a backslash at the end of a line away, with the end.
    pasted = [" ".join(line.split()) for line in captured.get().replace("\\\n", "").splitlines()]
    commands = re.findall(r"\((pip [^)]*)\)", " ".join(advices))
    assert len(commands) == 5
    for words in commands:
        assert any(line.endswith(words) for line in pasted), (words, pasted)


@pytest.mark.slow
def test_the_command(command: Command) -> None:
    outcome = command("doctor")
    assert outcome.exit_code == 0
    assert "auto takes" in outcome.stdout and "CPU" in outcome.stdout


@pytest.mark.slow
def test_what_is_asked_for_must_run(command: Command) -> None:
    assert command("doctor", "--provider", "cpu", "--provider", "auto").exit_code == 0
    outcome = command("doctor", "--provider", "cpu", "--provider", "openvino", "--json")
    assert outcome.exit_code == 4
    assert outcome.document["providers"][-1]["name"] == "OpenVINOExecutionProvider"
    assert outcome.document["providers"][-1]["runs"] is False
    assert "install onnxruntime-openvino" in outcome.stderr
    assert outcome.document["auto"]["name"] in (CPU, CUDA)


def test_an_onnxruntime_that_cannot_be_imported_is_named(
    command: Command, monkeypatch: pytest.MonkeyPatch, digits: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    session_module.onnx_runtime.cache_clear()
    try:
        for arguments in (("doctor",), ("bench", digits)):
            outcome = command(*arguments)
            assert outcome.exit_code == 4
            assert "onnxruntime cannot be imported" in outcome.stderr
            assert "Traceback" not in outcome.stderr
    finally:
        session_module.onnx_runtime.cache_clear()
