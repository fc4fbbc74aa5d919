"""The function for folders does what the command does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxheadprune
from onnxheadprune import FolderResult, UsageError, prune_folder
from onnxheadprune.api.functions import _written
from tests.conftest import Command
from tests.deploying import exports
from tests.deploying.exports import contents


@pytest.mark.slow
def test_the_function_gives_the_folder_of_the_command(command: Command, tmp_path: Path) -> None:
    folder = exports.encoder(tmp_path / "in")
    before = contents(folder)
    result = prune_folder(folder, tmp_path / "out", heads={"0": [1], "1": [0, 3]}, provider="cpu")
    assert isinstance(result, FolderResult) and result.heads == {0: (1,), 1: (0, 3)}
    assert [item.result.validation.verdict for item in result.files if item.result.validation] == [
        "passed"
    ] * 2
    options = ("--heads", "0:1 1:0,3", "--provider", "cpu")
    assert command("prune", folder, "-o", tmp_path / "other", *options).exit_code == 0
    card = (tmp_path / "out" / "README.md").read_text()
    call = card.partition("To repeat it:\n\n    ")[2].splitlines()[0].replace("/out'", "/again'")
    eval(call, {"onnxheadprune": onnxheadprune})
    # The model card names the folder and the call.
    out, *others = ({**contents(tmp_path / name), "README.md": None} for name in ("out", "other", "again"))
    assert others == [out, out]
    assert contents(folder) == before
    with pytest.raises(UsageError, match="a folder with files in it, and none is ever replaced"):
        prune_folder(folder, tmp_path / "out", heads="0:1")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Path("in") / "data.npz", "'in/data.npz'"),
        ({"0": [1], "ffn.1": range(3)}, "{'0': [1], 'ffn.1': range(0, 3)}"),
        ({"ids": np.zeros(3)}, "..."),
        (list(range(9999)), "..."),
        (print, "..."),
    ],
    ids=["path", "spec", "arrays", "long", "function"],
)
def test_arguments_are_written_as_python_takes_them(value: object, written: str) -> None:
    assert _written(value) == written
