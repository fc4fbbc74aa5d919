"""The command line is a contract: exit codes, one JSON document, text for people elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxheadprune.cli import main
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


def test_inspect_shows_sites_and_heads(command: Command, digits: Path) -> None:
    result = command("inspect", digits)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "4 attention sites, 32 heads" in result.stdout
    rows = [line.split() for line in result.stdout.splitlines() if ".attn" in line and "mha" in line]
    assert rows[0][:6] == ["attn.0", "blocks.0.attn", "mha", "8", "8", "8"]
    assert len(rows) == 4 and all(row[-1] == "yes" for row in rows)


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


def test_inspect_without_a_site_explains_itself(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "plain.onnx"
    onnx.save(toys.no_attention(), path)
    result = command("inspect", path)
    assert result.exit_code == 3
    assert result.stdout == ""
    assert "error:" in result.stderr
    assert "has no attention site" in result.stderr
    as_json = command("inspect", path, "--json")
    assert as_json.exit_code == 3
    assert as_json.document["sites"] == []


# prune


@pytest.mark.slow
def test_prune_writes_a_smaller_proven_model(command: Command, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    result = command("prune", digits, "-o", out, "--heads", "0:1,3 2:5", "--provider", "cpu")
    assert result.exit_code == 0
    assert re.search(r"heads +32 -> 29", result.stdout) and "exact" in result.stdout
    assert str(out) in result.stdout
    assert out.stat().st_size < digits.stat().st_size
    onnx.checker.check_model(out, full_check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]
    assert command("validate", digits, out, "--provider", "cpu").exit_code == 0


def test_prune_json(command: Command, toy: Path, tmp_path: Path) -> None:
    result = command("prune", toy, "-o", tmp_path / "out.onnx", "--heads", "0:1", "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    document = result.document
    assert document["output"] == str(tmp_path / "out.onnx")
    assert document["validation"]["verdict"] == "passed"
    assert document["plan"]["cuts"][0]["removed"] == [1]


def test_edits_are_counted_and_listed_where_somebody_looks_ahead(
    command: Command, toy: Path, tmp_path: Path
) -> None:
    """A few heads are hundreds of edits, which nobody reads but who wants the plan."""
    words = ("prune", toy, "-o", tmp_path / "out.onnx", "--heads", "0:1")
    plan = command(*words, "--dry-run", "--json").document
    summary = command(*words, "--json").document["plan"]
    assert "edits" not in summary and summary["edit_counts"] == plan["edit_counts"]
    assert sum(plan["edit_counts"].values()) == len(plan["edits"])
    assert {**summary, "edits": plan["edits"]}.items() <= plan.items()


def test_dry_run_shows_the_plan_and_writes_nothing(command: Command, toy: Path, tmp_path: Path) -> None:
    result = command("prune", toy, "--heads", "0:1", "--dry-run", "-v")
    assert result.exit_code == 0
    assert "planned, nothing was written" in result.stdout and "4 -> 3" in result.stdout
    assert "3 of 4" in result.stdout
    assert "past_key" in result.stdout
    assert "interface" in result.stdout
    as_json = command("prune", toy, "--heads", "0:1", "--dry-run", "--json")
    assert as_json.document["format"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["toy.onnx"]


def test_edge_gathers_are_shown_with_their_reason(command: Command, toy: Path) -> None:
    result = command("prune", toy, "--heads", "0:1", "--dry-run", "--cache", "keep", "-v")
    assert "edge gather" in result.stdout
    document = command("prune", toy, "--heads", "0:1", "--dry-run", "--cache", "keep", "--json").document
    assert document["edge_gathers"]
    for gather in document["edge_gathers"]:
        assert gather["reason"] in result.stdout


def test_heads_from_a_file(command: Command, toy: Path, tmp_path: Path) -> None:
    spec = tmp_path / "heads.json"
    spec.write_text('{"0": [1, 3]}')
    result = command("prune", toy, "--heads", spec, "--dry-run", "--json")
    assert result.document["cuts"][0]["removed"] == [1, 3]


@pytest.mark.slow
def test_external_data_stays_external(command: Command, tmp_path: Path) -> None:
    model = toys.attention(extra_weight=5000)
    source, inline = tmp_path / "in" / "model.onnx", tmp_path / "inline.onnx"
    source.parent.mkdir()
    onnx.save(model, inline)
    onnx.save(model, source, save_as_external_data=True, location="weights.bin", size_threshold=100)
    folder = tmp_path / "out"
    folder.mkdir()

    def written(*options: str) -> set[str]:
        for path in folder.iterdir():
            path.unlink()
        assert command("prune", source, "-o", folder / "p.onnx", "--heads", "0:1", *options).exit_code == 0
        assert command("validate", source, folder / "p.onnx").exit_code == 0
        names = {path.name for path in folder.iterdir()}
        assert all(re.fullmatch(r"p\.onnx(\.[0-9a-f]{16}\.data)?", name) for name in names)
        return names

    assert len(written()) == 2
    assert written("--external-data", "never") == {"p.onnx"}
    assert len(written("--external-data", "always")) == 2
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {0o666 & ~_umask()}
    assert command("prune", inline, "-o", folder / "q.onnx", "--heads", "0:1").exit_code == 0
    assert not list(folder.glob("q.onnx.*"))


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def test_an_older_output_is_replaced(command: Command, toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    for gone in (["0:1"], ["0:2", "--force"]):
        assert command("prune", toy, "-o", out, "--heads", *gone).exit_code == 0
        onnx.load(out)
        older = out.read_bytes()
        assert command("prune", toy, "-o", out, "--heads", "0:0").exit_code == 0
        assert out.read_bytes() != older
        out.write_text("somebody's")


@pytest.mark.slow
def test_accuracy_is_reported(command: Command, digits: Path, digits_test: Path, tmp_path: Path) -> None:
    result = command("prune", digits, "-o", tmp_path / "o.onnx", "--heads", "0:1,3", "--data", digits_test)
    assert re.search(r"accuracy +98\.7 % ->", result.stdout), result.stdout
    assert "450 labels" in result.stdout


# validate


def test_failed_json_holds_the_validation(command: Command, tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    onnx.save(toys.attention(silent_heads=(1,)), source)
    result = command("prune", source, "-o", tmp_path / "out.onnx", "--heads", "0:1", "--json")
    assert result.exit_code == 1
    document = result.document
    assert document["exit_code"] == 1
    assert document["validation"]["verdict"] == "inconclusive"


@pytest.mark.slow
def test_infinities_are_no_json(command: Command, toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    command("prune", toy, "-o", out, "--heads", "0:1")
    model = onnx.load(out)
    weight = toys.get_initializer(model, "attn.v.weight")
    toys.set_initializer(model, "attn.v.weight", np.full_like(weight, np.nan))
    onnx.save(model, out)
    result = command("validate", toy, out, "--json")
    assert json.loads(result.stdout, parse_constant=pytest.fail)["max_rel_error"] is None


# Around the commands


def test_a_bug_asks_for_a_report(command: Command, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("onnxheadprune.attention.sites.find.analysis_of", broken)
    result = command("inspect", toy)
    assert result.exit_code == 70
    assert result.stdout == ""
    assert "Traceback" in result.stderr
    assert "please report it" in result.stderr.splitlines()[-1]


def test_an_interrupt_while_modules_load(
    command: Command, monkeypatch: pytest.MonkeyPatch, toy: Path
) -> None:
    def half_loaded(*_: Any, **__: Any) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("the module is not complete") from error

    monkeypatch.setattr("onnxheadprune.attention.sites.find.analysis_of", half_loaded)
    result = command("inspect", toy)
    assert (result.exit_code, result.stderr) == (130, "error: interrupted\n")


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
def test_output_in_a_pipe_has_no_colours_and_whole_rows(digits: Path) -> None:
    result = shell("inspect", digits)
    assert result.returncode == 0
    assert "\x1b" not in result.stdout
    assert result.stderr == ""


@pytest.mark.slow
def test_colours_follow_the_environment(digits: Path) -> None:
    assert "\x1b[" in shell("inspect", digits, FORCE_COLOR="1").stdout
    assert "\x1b[3" not in shell("inspect", digits, FORCE_COLOR="1", NO_COLOR="1").stdout
    assert "\x1b[31merror" in shell("inspect", "missing.onnx", FORCE_COLOR="1").stderr
    assert "\x1b" not in shell("inspect", "missing.onnx").stderr


@pytest.mark.slow
def test_narrow_terminals_get_whole_words(digits: Path) -> None:
    for width in ("80", "120"):
        lines = shell("inspect", digits, COLUMNS=width).stdout.splitlines()
        assert max(len(line) for line in lines) <= int(width)
        assert any("blocks.3.attn" in line for line in lines)


@pytest.mark.slow
def test_ascii_terminals_are_served(digits: Path) -> None:
    result = shell("inspect", digits, PYTHONIOENCODING="ascii")
    assert result.returncode == 0
    assert result.stdout.isascii()


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error(digits: Path) -> None:
    command = f"{sys.executable} -m onnxheadprune inspect {digits} --json | head -c 10"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.stderr == ""


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


def test_main_is_the_entry_point() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"onnxheadprune": "onnxheadprune.cli:main"}
    assert main(["--version"]) == 0
