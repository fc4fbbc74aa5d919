"""What a command says with its exit code does not depend on who reads its output, or whether anyone can."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxheadprune import prune, validate
from onnxheadprune.cli import main
from onnxheadprune.cli.presenting import Presentation
from tests.conftest import ROOT, Command, Outcome
from tests.graphs import toys

TOOL = f"{sys.executable} -m onnxheadprune"


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(toys.attention(), path)
    return path


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line for bash, in which `T` is the tool and `$code` its exit code, whatever it is piped into."""
    script = f'T() {{ {TOOL} "$@"; echo $? >&9; }}; {line}'
    read, write = os.pipe()
    try:
        result = subprocess.run(
            ["bash", "-c", f"exec 9>&{write}; {script}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            pass_fds=[write],
            env=os.environ | environment,
        )
    finally:
        os.close(write)
    with os.fdopen(read) as codes:
        code = int(codes.read().split()[-1])
    return subprocess.CompletedProcess(line, code, result.stdout, result.stderr)


@pytest.mark.slow
def test_closed_streams_write_no_model(toy: Path) -> None:
    """The first file that is opened must not become the stdout that a library prints to."""
    out = toy.with_name("o.onnx")
    result = shell(f"T prune {toy} -o {out} --heads 0:1 <&- >&- 2>&-")
    assert result.returncode == 0
    assert validate(toy, out, provider="cpu").passed


def test_streams_that_python_has_closed(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        stream.close()
        monkeypatch.setattr(sys, name, stream)
    assert main(["inspect", str(toy), "--json"]) == 0
    assert main(["inspect", str(toy.with_name("none.onnx"))]) == 2


@pytest.mark.slow
def test_a_full_disk_is_no_verdict(toy: Path) -> None:
    for line in (
        f"T inspect {toy} > /dev/full",
        f"T inspect {toy} --json > /dev/full",
        "T --help > /dev/full",
    ):
        result = shell(line)
        assert result.returncode == 74
        assert result.stderr == "error: the output could not be written: No space left on device\n"
    result = shell(f"T inspect {toy.parent}/no.onnx --json > /dev/full")
    assert result.returncode == 2
    assert "does not exist" in result.stderr


@pytest.mark.slow
def test_a_reader_that_leaves_changes_no_verdict(toy: Path) -> None:
    """`validate | true` says what `validate` says."""
    pruned, wrong = toy.with_name("p.onnx"), toy.with_name("w.onnx")
    prune(toy, pruned, heads="0:1", provider="cpu")
    model = onnx.load(pruned)
    weight = next(item for item in model.graph.initializer if item.name == "attn.out.weight")
    weight.raw_data = bytes(np.frombuffer(weight.raw_data, np.float32) * np.float32(2))
    onnx.save(model, wrong)
    for file, code in ((pruned, 0), (wrong, 1)):
        result = shell(f"T validate {toy} {file} --provider cpu | true")
        assert result.returncode == code
        assert "Traceback" not in result.stderr
        assert "error" not in result.stderr


# Functions of the user


CODE = """
import sys
import numpy as np

def feeds():
    yield {"x": np.zeros((2, 3, 12), np.float32)}

def stops():
    sys.exit(0)

def stops_later():
    yield from feeds()
    raise SystemExit

def raises():
    raise type("Own", (BaseException,), {})("mine")

def ragged():
    yield {"x": [[1], [1, 2]]}

def interrupted():
    raise KeyboardInterrupt

def metric(outputs, feed):
    sys.exit(0)

def effect(before, after, feed):
    raise SystemExit(3)

def nothing(before, after, feed):
    return float("nan")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "users_module.py").write_text(CODE)
    (tmp_path / "users_exit.py").write_text("import sys; sys.exit(0)")
    monkeypatch.chdir(tmp_path)
    yield "users_module"
    for name in ("users_module", "users_exit"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("score", "--data", "users_module:stops"), 2, "users_module:stops failed: SystemExit(0)"),
        (("score", "--data", "users_module:stops_later"), 2, "users_module:stops_later failed: SystemExit()"),
        (("score", "--data", "users_module:raises"), 2, "users_module:raises failed: Own('mine')"),
        (("score", "--data", "users_module:ragged"), 2, "cannot be made arrays"),
        (("score", "--data", "users_module:interrupted"), 130, "interrupted"),
        (("score", "--data", "users_exit:feeds"), 2, "users_exit:feeds cannot be imported: SystemExit(0)"),
        (
            ("score", "--method", "ablation", "--data", "random", "--drift", "users_module:effect"),
            2,
            "the measure effect failed: SystemExit(3)",
        ),
        (
            ("score", "--method", "ablation", "--data", "random", "--drift", "users_module:nothing"),
            2,
            "the measure nothing gave nan",
        ),
        (
            (
                "validate",
                "M",
                "--heads",
                "0:1",
                "--data",
                "users_module:feeds",
                "--metric",
                "users_module:metric",
            ),
            2,
            "the metric users_module:metric failed: SystemExit(0)",
        ),
    ],
)
def test_what_users_functions_raise_is_a_sentence(
    arguments: tuple[str, ...], code: int, sentence: str, toy: Path, module: str, command: Command
) -> None:
    first, *rest = (str(toy) if word == "M" else word for word in arguments)
    result: Outcome = command(first, toy, *rest)
    assert result.exit_code == code, result.stderr
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_a_program_that_ends_itself_is_a_bug(
    toy: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is nobody's doing on purpose stays a bug, also where it calls itself an exit."""

    def stops(*_: object) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(Presentation, "rows", stops)
    assert main(["prune", str(toy), "--heads", "0:1", "--dry-run"]) == 70
    assert "this is a bug in onnxheadprune (SystemExit)" in capfd.readouterr().err
