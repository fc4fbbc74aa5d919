"""Bad input gets one clear sentence, an exit code of the contract, and leaves no file behind."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxheadprune import (
    HeadPruneError,
    ModelError,
    ProviderError,
    RefusedError,
    UsageError,
    ValidationFailedError,
)
from onnxheadprune.cli.outcome import MOST_LETTERS
from tests.conftest import ROOT, Command
from tests.graphs import toys
from tests.limits import bounded


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "toy.onnx"
    onnx.save(toys.attention(), path)
    return path


@pytest.fixture
def refused(command: Command, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Runs a command that must fail; gives its one sentence. Nothing may have been written."""

    def run(exit_code: int, *arguments: object) -> str:
        before = _listing(tmp_path)
        result = command(*arguments)
        assert result.exit_code == exit_code, result.stderr
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert "Traceback" not in result.stderr
        assert _listing(tmp_path) == before
        as_json = command(*arguments, "--json")
        assert as_json.exit_code == exit_code
        assert as_json.document["exit_code"] == exit_code
        assert _listing(tmp_path) == before
        return line.removeprefix("error: ")

    return run


def _listing(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


Refused = Callable[..., str]


def test_exit_codes_are_the_contract() -> None:
    codes = {
        HeadPruneError: 3,
        UsageError: 2,
        ModelError: 3,
        RefusedError: 3,
        ValidationFailedError: 1,
        ProviderError: 4,
    }
    assert {error: error.exit_code for error in codes} == codes


# The input


@contextmanager
def without_privileges() -> Iterator[None]:
    """A block that root, who may read and write everything, runs as nobody."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_unreadable_file(command: Command, toy: Path) -> None:
    # Not in `tmp_path`, whose parents nobody may enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = Path(shutil.copy(toy, folder / "m.onnx"))
        path.chmod(0)
        folder.chmod(0o755)
        with without_privileges():
            result = command("inspect", path)
    sentence = f"error: {path} cannot be read: Permission denied\n"
    assert (result.exit_code, result.stdout, result.stderr) == (3, "", sentence)


def external(folder: Path) -> Path:
    folder.mkdir()
    path = folder / "model.onnx"
    model = toys.attention(extra_weight=5000)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=100)
    return path


# The output


def test_folder_that_cannot_be_written(command: Command, toy: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(toy, folder / "m.onnx")
        folder.chmod(0o555)
        with without_privileges():
            result = command("prune", folder / "m.onnx", "-o", folder / "o.onnx", "--heads", "0:1")
        folder.chmod(0o755)
        assert [path.name for path in folder.iterdir()] == ["m.onnx"]
    sentence = f"error: {folder}/o.onnx cannot be written: its folder is not writable (Permission denied)\n"
    assert (result.exit_code, result.stderr) == (2, sentence)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["never", "always"])
def test_full_disk(
    refused: Refused, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "o.onnx"
    out.write_text("an older model")
    monkeypatch.setattr(os, "fsync", full)
    sentence = refused(2, "prune", toy, "-o", out, "--heads", "0:1", "--force", "--external-data", option)
    assert sentence == f"{out} cannot be written: no space is left"
    assert out.read_text() == "an older model"


@pytest.mark.first_case
@pytest.mark.parametrize("kilobytes", [100, 200])
def test_lack_of_space_is_not_blamed_on_the_model(kilobytes: int, tmp_path: Path) -> None:
    """In a temporary folder with room for none, or one, of the files that the quantizer writes there."""
    onnx.save(toys.attention(hidden=512), tmp_path / "m.onnx")
    (tmp_path / "full").mkdir()
    mounted = f"mount -t tmpfs -o size={kilobytes}k tmpfs full"
    apart = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*apart, mounted], cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip("this system mounts nothing for its users")
    command = (
        f"{mounted} && exec {sys.executable} -m onnxheadprune quantize m.onnx -o o.onnx --to int8-dynamic"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path / "full"), "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [*apart, command], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )
    assert result.returncode in (2, 3), result
    assert "no space is left" in result.stderr and f"{tmp_path}/full" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("option", ["never", "always"])
def test_write_that_stops_half_way(tmp_path: Path, option: str) -> None:
    """A real half-written file: the system allows 10 kB per file, the model needs more."""
    source, folder = tmp_path / "big.onnx", tmp_path / "out"
    folder.mkdir()
    onnx.save(toys.attention(extra_weight=10_000), source)
    out = folder / "o.onnx"
    command = [sys.executable, "-m", "onnxheadprune", "prune", source, "-o", out, "--heads", "0:1"]
    result = subprocess.run(
        [*map(str, command), "--external-data", option, "--no-validate"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
    )
    assert result.returncode == 2
    assert result.stderr == f"error: {out} cannot be written: File too large\n"
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_out_of_memory(toy: Path) -> None:
    """A real shortage: text of 120 MB, which belongs to a model's structure, and room for 60 MB."""
    model = onnx.load(toy)
    model.doc_string = "x" * 120_000_000
    onnx.save(model, toy)
    result = bounded("inspect", toy, memory=60_000_000)
    sentence = "error: there is not enough memory for this\n"
    assert (result.exit_code, result.stdout, result.stderr) == (3, "", sentence)
    model.doc_string = ""
    onnx.save(model, toy)
    assert bounded("inspect", toy, memory=60_000_000).exit_code == 0


def test_an_error_is_no_longer_than_it_can_be_read(tmp_path: Path, command: Command) -> None:
    model = toys.attention()
    model.graph.node[-1].op_type = "A" * 1_000_000
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    result = command("prune", path, "--heads", "0:1", "-o", tmp_path / "o.onnx", "--provider", "cpu")
    assert result.exit_code == 3
    assert len(result.stderr) < MOST_LETTERS + 100
    assert " ... " in result.stderr


def test_what_was_in_memory_is_gone_before_its_lack_is_told(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of an allocation holds the frames that filled the memory, and with them all that is in it."""

    def fills(*_: object) -> None:
        held, size = [], 2**20
        while True:
            try:
                held.append(bytes(size))
            except MemoryError:
                size //= 2
                if size < 64:
                    raise

    monkeypatch.setattr("onnxheadprune.cli.commands.emit_json", fills)
    result = bounded("inspect", toy, "--json", memory=200_000_000)
    assert result.exit_code == 3
    assert result.stderr == "error: there is not enough memory for this\n"
