"""The command line is a contract: exit codes, one JSON document, text for people elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxheadprune.cli.presenting import Presentation
from tests.conftest import ROOT, Command
from tests.graphs import toys


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "toy.onnx"
    onnx.save(toys.attention(cache=True), path)
    return path


def shell(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A real process whose stdout is no terminal."""
    command = [sys.executable, "-m", "onnxheadprune", *map(str, arguments)]
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=inherited | environment
    )


# inspect


def test_inspect_json_is_the_contract(command: Command, digits: Path) -> None:
    document = command("inspect", digits, "--json").document
    assert document["model"] == str(digits)
    assert document["near_misses"] == []
    site = document["sites"][1]
    wanted = {
        "index": 1,
        "name": "blocks.1.attn",
        "kind": "mha",
        "num_heads": 8,
        "kv_num_heads": 8,
        "head_size": 8,
        "v_head_size": 8,
        "removable": True,
        "reason": None,
        "params": 4 * 64 * 64 + 3 * 64,
        "removed": [],
    }
    assert {key: site[key] for key in wanted} == wanted
    assert {"bytes", "flops_per_token"} <= site.keys()


# prune


def test_prune_json(command: Command, toy: Path, tmp_path: Path) -> None:
    result = command("prune", toy, "-o", tmp_path / "out.onnx", "--heads", "0:1", "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    document = result.document
    assert document["output"] == str(tmp_path / "out.onnx")
    assert document["validation"]["verdict"] == "passed"
    assert document["plan"]["cuts"][0]["removed"] == [1]


# validate


# Around the commands


def test_a_bug_asks_for_a_report(command: Command, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(Presentation, "rows", broken)
    result = command("prune", toy, "--heads", "0:1", "--dry-run")
    assert result.exit_code == 70
    assert result.stdout == ""
    assert "Traceback" in result.stderr
    assert "please report it" in result.stderr.splitlines()[-1]


def test_interrupting_leaves_nothing(
    command: Command, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    result = command("prune", toy, "-o", tmp_path / "out.onnx", "--heads", "0:1")
    assert result.exit_code == 130
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["toy.onnx"]


@pytest.mark.slow
def test_colours_follow_the_environment(digits: Path) -> None:
    assert "\x1b[" in shell("inspect", digits, FORCE_COLOR="1").stdout
    assert "\x1b[3" not in shell("inspect", digits, FORCE_COLOR="1", NO_COLOR="1").stdout
    assert "\x1b[31merror" in shell("inspect", "missing.onnx", FORCE_COLOR="1").stderr
    assert "\x1b" not in shell("inspect", "missing.onnx").stderr


@pytest.mark.slow
def test_json_is_the_only_thing_on_stdout_of_a_real_process(
    digits: Path, digits_test: Path, tmp_path: Path
) -> None:
    result = shell(
        "prune", digits, "-o", tmp_path / "o.onnx", "--heads", "0:1", "--json", "--data", digits_test
    )  # fmt: skip
    assert result.returncode == 0
    assert json.loads(result.stdout)["validation"]["accuracy"]["count"] == 450
    # What takes long on a slow machine says how far it is, with the time of day.
    assert not [line for line in result.stderr.splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line)]
