"""`doctor`: what it finds on machines that are made up: drivers are programs, packages are folders."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onnxheadprune.runtime import CPU, CUDA
from onnxheadprune.runtime import session as session_module
from onnxheadprune.runtime.providers import unmet
from tests.conftest import Command

CARDS = "NVIDIA H100 80GB HBM3, 580.65.06, 81559, 9.0\nTesla T4, 535.1, [N/A], [N/A]\n\nbroken line\n"
Driver = Callable[[str, int], None]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Puts an `nvidia-smi` on the path that prints a text and ends with a code."""

    def put(text: str, code: int) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\nexit {code}\n", encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return put


def doctor(command: Command, *words: str) -> Any:
    return command("doctor", *words, "--json").document


def test_what_the_driver_prints_is_read(command: Command, driver: Driver) -> None:
    driver(f"{CARDS}CUDA Version: 12.8\n", 0)
    found = doctor(command)
    assert [(card["name"], card["driver"], card["memory_mib"]) for card in found["cards"]] == [
        ("NVIDIA H100 80GB HBM3", "580.65.06", 81559),
        ("Tesla T4", "535.1", None),
    ]
    assert found["driver_cuda"] == "12.8" and found["warnings"]


def test_two_runtimes_at_once_are_a_warning(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnxruntime", "onnxruntime_gpu", "onnxruntime_extensions"):
        (tmp_path / f"{name}-1.31.1.dist-info").mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.1\n"
        (tmp_path / f"{name}-1.31.1.dist-info" / "METADATA").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = doctor(command)
    assert found["runtime_packages"].keys() == {"onnxruntime", "onnxruntime-gpu"}
    assert any("pip uninstall onnxruntime onnxruntime-gpu" in warning for warning in found["warnings"])


NEEDS = (
    "click>=8.2",
    "onnx-graphsurgeon>=0.6.1",
    "tokenizers>=0.19",
    'onnxruntime-gpu>=1.27; sys_platform == "linux" and platform_machine == "x86_64"',
    'onnxruntime>=1.27; sys_platform != "linux"',
    'torch>=2.6; extra == "samples"',
)


def test_what_an_installation_without_dependencies_lacks_is_told() -> None:
    """Beside another build of the runtime nothing is missing."""
    there = {"click": "8.2", "onnx-graphsurgeon": "0.6.1", "tokenizers": "1.0", "onnxruntime": "1.27.0"}
    assert list(unmet("1.27.0", NEEDS, there)) == []
    there = {"click": "8.1.9", "onnx-graphsurgeon": "0.10", "onnxruntime-openvino": "1.26"}
    assert list(unmet("1.26", NEEDS, there)) == [
        "click>=8.2 (there is 8.1.9)",
        "onnxruntime>=1.27 (there is 1.26)",
        "tokenizers>=0.19 (there is none)",
    ]


def test_what_is_asked_for_must_run(command: Command) -> None:
    assert command("doctor", "--provider", "cpu", "--provider", "auto").exit_code == 0
    outcome = command("doctor", "--provider", "cpu", "--provider", "openvino", "--json")
    assert outcome.exit_code == 4
    last = outcome.document["providers"][-1]
    assert last["name"] == "OpenVINOExecutionProvider" and last["runs"] is False
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
