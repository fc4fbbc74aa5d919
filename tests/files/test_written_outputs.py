"""Whatever is written appears whole or not at all, and only what is surely ours is ever removed."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxheadprune import UsageError, prune
from onnxheadprune.deploying.batch import RECORD, prune_batch
from onnxheadprune.display.facts import Strip, UnitMap
from onnxheadprune.model.storage import writing
from onnxheadprune.model.storage.writing import (
    HiddenFolder,
    temporary_folder,
    temporary_folder_of,
    write_text,
)
from onnxheadprune.reporting.pictures import save_figure
from onnxheadprune.reporting.pictures.draw import picture_of
from tests.crashes import complete, in_child
from tests.files.filesystems import POSIX
from tests.graphs import toys
from tests.options.asked import call

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@POSIX
def test_texts_keep_mode_and_group(tmp_path: Path) -> None:
    for path in (tmp_path / "r.html", tmp_path / "h.png"):
        path.write_text("an older one")
        path.chmod(0o640)
        if os.geteuid() == 0:
            os.chown(path, -1, 23456)
        before = path.stat()
        if path.suffix == ".png":
            save_figure(picture_of(UnitMap("heads", (Strip("0", "site", (1.0, 2.0)),), "")), path)
        else:
            write_text(path, "a newer one")
        after = path.stat()
        assert (after.st_mode, after.st_gid) == (before.st_mode, before.st_gid)
        assert after.st_ino != before.st_ino


def test_what_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """Between the check and the writing a pipe, a folder or a link took the name."""
    (tmp_path / "other").write_text("not ours")
    for make in (os.mkfifo, os.mkdir, partial(os.symlink, tmp_path / "other")):
        target = tmp_path / "r.html"
        make(target)
        with pytest.raises(UsageError, match="cannot be written: it is "):
            write_text(target, "text")
        with pytest.raises(UsageError, match=r"is a|is not a"):
            prune(toys.attention(), target, heads="0:1", validate=False)
        assert (tmp_path / "other").read_text() == "not ours"
        assert len(list(tmp_path.iterdir())) == 2
        target.rmdir() if target.is_dir() and not target.is_symlink() else target.unlink()


@pytest.mark.slow
def test_long_names_in_any_script(tmp_path: Path) -> None:
    """Names that are made from names fit too: hidden ones and those of data files."""
    for name in (
        "x" * 250 + ".onnx",
        "\u6ce8" * 83 + ".onnx",
        "a\nb\x1b[31m.onnx",
        os.fsdecode(b"\xff\xfe.onnx"),
    ):
        target = tmp_path / name
        for heads in ("0:1", "0:2"):
            prune(
                toys.attention(extra_weight=5000), target, heads=heads, validate=False, external_data="always"
            )
            assert {"model", "data"} == set(complete(target))
        assert len(list(tmp_path.iterdir())) == 2
        write_text(target, "a text")
        for path in tmp_path.iterdir():
            path.unlink()


def test_weights_that_are_read_are_never_swept_up(tmp_path: Path) -> None:
    """They may have the name of a data file of the output, and be referred to from another folder only."""
    (tmp_path / "out").mkdir()
    weights = "out/o.onnx.0123456789abcdef.data"
    toy = toys.attention(extra_weight=5000)
    onnx.save(toy, tmp_path / "m.onnx", save_as_external_data=True, location=weights, size_threshold=100)
    before = complete(tmp_path / "m.onnx")
    for heads in ("0:1", "0:2"):
        prune(
            tmp_path / "m.onnx",
            tmp_path / "out" / "o.onnx",
            heads=heads,
            validate=False,
            external_data="always",
        )
        assert complete(tmp_path / "m.onnx") == before


@pytest.mark.slow
def test_weights_that_any_model_near_refers_to_stay(tmp_path: Path) -> None:
    """However a model beside the output or in a folder above it spells their place."""
    folder = tmp_path / "up" / "out"
    folder.mkdir(parents=True)
    output, toy = folder / "o.onnx", toys.attention(extra_weight=5000)
    prune(toy, output, heads="0:1", validate=False, external_data="always")
    data, model = next(folder.glob("*.data")), onnx.load(output, load_external_data=False)
    for place, spelled in ((folder, "./"), (tmp_path / "up", "out/"), (tmp_path, "up/./out/")):
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = spelled + data.name if entry.key == "location" else entry.value
        (place / "near.onnx").write_bytes(model.SerializeToString())
        prune(toy, output, heads="0:2", validate=False, external_data="always")
        assert complete(place / "near.onnx")["data"], spelled
        (place / "near.onnx").unlink()
        assert data.exists()
        shutil.copy(data, tmp_path / "kept")
        prune(toy, output, heads="0:3", validate=False, external_data="always")
        assert not data.exists()
        shutil.copy(tmp_path / "kept", data)


def test_hidden_files_of_others_stay(tmp_path: Path) -> None:
    target = tmp_path / "r.html"
    others = [".r.html.tmp", ".r.html.0123456789abcdef.tmp.bak", ".s.html.0123456789abcdef.tmp", "r.html.bak"]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / ".r.html.0123456789abcdef.tmp").mkdir()
    os.mkfifo(tmp_path / ".r.html.aaaaaaaaaaaaaaaa.tmp")
    with HiddenFolder(target) as living:
        hidden = living.path.parent.name
        write_text(target, "text")
        assert {path.name for path in tmp_path.iterdir()} == {
            *others,
            hidden,
            "r.html",
            ".r.html.aaaaaaaaaaaaaaaa.tmp",
        }


@POSIX
def test_the_group_of_others_gets_no_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system does not let us give a file to its group, ours may do no more than everybody."""

    def refuses(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    target = tmp_path / "r.html"
    target.write_text("an older one")
    os.chown(target, -1, os.getegid() if os.geteuid() else 23456)
    monkeypatch.setattr(writing.os, "fchown", refuses)
    for mode, expected in ((0o664, 0o644), (0o640, 0o600), (0o600, 0o600), (0o604, 0o604)):
        target.chmod(mode)
        if os.geteuid() == 0:
            os.chown(target, -1, 23456)
        write_text(target, "a newer one")
        assert target.stat().st_mode & 0o777 == (expected if os.geteuid() == 0 else mode)


def test_the_api_knows_its_inputs_too(tmp_path: Path) -> None:
    """Data, heads and weights by their paths, and the module of a function."""
    model, data, heads = tmp_path / "m.onnx", tmp_path / "d.npz", tmp_path / "h.json"
    toy = toys.attention(extra_weight=300)
    onnx.save(toy, model, save_as_external_data=True, location="w.bin", size_threshold=100)
    (tmp_path / "feeds").mkdir()
    for path in (data, tmp_path / "feeds" / "0.npz"):
        np.savez(path, x=np.zeros(3))
    heads.write_text('{"0": [1]}')
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for target, settings in (
        (data, {"data": data}),
        (tmp_path / "feeds" / "0.npz", {"data": str(tmp_path / "feeds")}),
        (heads, {}),
        (model, {}),
        (tmp_path / "w.bin", {}),
    ):
        with pytest.raises(UsageError, match="which this call reads"):
            prune(model, target, heads=heads, **settings)  # type: ignore[arg-type]
    for target in (f"{tmp_path}/new/", f"{tmp_path}/new/.", f"{tmp_path}/zero\0byte", "\ud800", "x" * 5000):
        with pytest.raises(UsageError):
            prune(model, target, heads=heads)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


# Batches


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    onnx.save(toys.attention(), folder / "a.onnx")
    toy = toys.attention(extra_weight=300)
    onnx.save(toy, folder / "b.onnx", save_as_external_data=True, location="w.bin", size_threshold=100)
    return folder


@pytest.mark.usefixtures("batch_in_process")
def test_a_batch_replaces_no_input(models: Path, tmp_path: Path) -> None:
    """An output folder in which a model, or weights, of the batch have another name."""
    for victim in ("a.onnx", "b.onnx", "w.bin"):
        out = tmp_path / f"out-{victim}"
        out.mkdir()
        os.link(models / victim, out / "a.onnx")
        before = {path.name: path.read_bytes() for path in models.iterdir()}
        if victim == "w.bin":
            result = prune_batch(models, call(validate=False), out)
            assert [item.status for item in result.files] == ["refused", "done"]
            assert "was not written by this tool" in result.files[0].reason
        else:
            with pytest.raises(UsageError, match="which this call reads"):
                prune_batch(models, call(validate=False), out)
            assert len(list(out.iterdir())) == 1
        assert {path.name: path.read_bytes() for path in models.iterdir()} == before


@pytest.mark.usefixtures("batch_in_process")
def test_a_batch_replaces_only_what_this_tool_made(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    onnx.save(toys.attention(extra_weight=7), out / "a.onnx")
    foreign = (out / "a.onnx").read_bytes()
    (tmp_path / "elsewhere.onnx").write_text("not ours")
    (out / "b.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    result = prune_batch(models, call(validate=False), out)
    assert [item.status for item in result.files] == ["refused", "refused"]
    assert "was not written by this tool" in result.files[0].reason
    assert "is a link to" in result.files[1].reason
    assert (out / "a.onnx").read_bytes() == foreign and (out / "b.onnx").is_symlink()
    for name in ("a.onnx", "b.onnx"):
        (out / name).unlink()
    for heads in ("0:1", "0:2"):
        result = prune_batch(models, call(heads, validate=False), out)
        assert [item.status for item in result.files] == ["done", "done"]


@pytest.mark.usefixtures("batch_in_process")
def test_places_that_take_no_batch(models: Path, tmp_path: Path, command: Any) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / RECORD).mkdir()
    for out in ("file", "nowhere", "file/below", "odd", "x" * 300, "/proc/out", "-"):
        target = out if out == "-" else tmp_path / out
        outcome = command("batch", models, "-o", target, "--heads", "0:1")
        assert outcome.exit_code == 2 and outcome.stderr.startswith("error: "), outcome
    (models / "loop.onnx").symlink_to("loop.onnx")
    result = prune_batch(models, call(validate=False), tmp_path / "new" / "folder")
    assert [item.status for item in result.files] == ["done", "done", "refused"]


def test_temporary_folders_of_killed_calls_are_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of calls that live, folders that are not ours, and what only has such a name stay."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def killed() -> None:
        for _ in range(2):
            temporary_folder_of(onnx)
        os.kill(os.getpid(), signal.SIGKILL)

    empty, file, full, link, foreign = (tmp_path / f".{writing.WRITER}.{digit * 16}.tmp" for digit in "abcde")
    empty.mkdir()
    file.write_text("not ours")
    full.mkdir()
    (full / "x").write_text("not ours")
    link.symlink_to(full)
    stay = {file, full, link}
    if hasattr(writing.os, "geteuid") and os.geteuid() == 0:
        foreign.mkdir()
        (foreign / writing.LOCK).touch()
        os.chown(foreign, 12345, 23456)
        stay.add(foreign)
    with temporary_folder() as living:
        assert set(tmp_path.iterdir()) == stay | {living.parent}
        _, status = os.waitpid(in_child(killed), 0)
        assert os.WIFSIGNALED(status)
        assert len(set(tmp_path.iterdir()) - stay - {living.parent}) == 2
        with temporary_folder() as other:
            assert set(tmp_path.iterdir()) == stay | {living.parent, other.parent}
    assert set(tmp_path.iterdir()) == stay
