"""The only good original survives: backups of killed runs are taken up, and never overwritten."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxheadprune import HeadPruneError, UsageError, prune
from onnxheadprune.model.storage import stage
from onnxheadprune.model.storage.claims import Making, check_makings
from tests.conftest import Command
from tests.crashes import complete, litter, pruned_and_killed_at
from tests.files.filesystems import no_links
from tests.graphs import toys

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def fresh(place: Path, *, outside: bool) -> Path:
    """A folder with nothing but a model."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    model = place / "m.onnx"
    toy = toys.attention(extra_weight=5000)
    if outside:
        onnx.save(toy, model, save_as_external_data=True, location="w.bin", size_threshold=100)
    else:
        onnx.save(toy, model)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("linking", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("outside", [True, False], ids=["outside", "inside"])
def test_killed_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside: bool, linking: bool
) -> None:
    """At every step the original is complete under one of its names, and the same call then does the rest."""
    if not linking:
        no_links(monkeypatch)
    place = tmp_path / "place"
    model, kept = fresh(place, outside=outside), place / "kept.onnx"
    original, old = complete(model), model.read_bytes()
    seen = set()
    for step in range(0, 400, 3):
        model = fresh(place, outside=outside)
        killed = pruned_and_killed_at(step, model, None, "0:1", in_place=True, backup=kept)
        done = model.read_bytes() != old
        assert complete(kept if done else model) == original, step
        seen.add((done, kept.exists()))
        if done:
            complete(model)
            before = kept.read_bytes(), model.read_bytes()
            with pytest.raises(UsageError, match="exists already"):
                prune(model, heads="0:2", in_place=True, backup=kept, validate=False)
            assert (kept.read_bytes(), model.read_bytes()) == before
        else:
            prune(model, heads="0:1", in_place=True, backup=kept, validate=False)
        assert complete(kept) == original
        assert litter(place, model) - {"kept.onnx", "w.bin"} <= set() or done
        if not killed:
            break
    assert not killed
    assert {(False, False), (False, True), (True, True)} == seen


def test_a_copy_is_taken_up_and_anything_else_stays(tmp_path: Path) -> None:
    model = fresh(tmp_path / "place", outside=False)
    original = model.read_bytes()
    for name, content in (("one byte less", original[:-1]), ("other", original[:-1] + b"x"), ("empty", b"")):
        kept = model.with_name(name)
        kept.write_bytes(content)
        with pytest.raises(UsageError, match="exists already, and is no copy of the model"):
            prune(model, heads="0:1", in_place=True, backup=kept, validate=False)
        assert (kept.read_bytes(), model.read_bytes()) == (content, original)
    kept = model.with_name("copy")
    kept.write_bytes(original)
    number = kept.stat().st_ino
    prune(model, heads="0:1", in_place=True, backup=kept, validate=False)
    assert kept.read_bytes() == original != model.read_bytes()
    assert kept.stat().st_ino == number


def test_a_backup_that_is_the_model_itself(tmp_path: Path, command: Command) -> None:
    """By every name of it. A link to the model is no copy: it would lead to the pruned one."""
    model = fresh(tmp_path / "place", outside=False)
    original = model.read_bytes()
    (tmp_path / "door").symlink_to(model.parent)
    model.with_name("link").symlink_to(model)
    for kept in (
        model,
        model.parent / "." / model.name,
        tmp_path / "door" / model.name,
        model.with_name("link"),
    ):
        with pytest.raises(UsageError, match=r"is the model itself|is a link to"):
            prune(model, heads="0:1", in_place=True, backup=kept, validate=False)
        outcome = command("prune", model, "--in-place", "--backup", kept, "--heads", "0:1")
        assert outcome.exit_code == 2 and "Traceback" not in outcome.stderr
        assert model.read_bytes() == original


def test_names_that_a_file_system_takes_for_one(tmp_path: Path) -> None:
    """On any: outputs are copied to other ones. A second name of the file plays one that does not tell cases apart."""
    model = fresh(tmp_path / "place", outside=False)
    os.link(model, model.with_name("M.ONNX"))
    with pytest.raises(UsageError, match="is the model itself"):
        prune(model, heads="0:1", in_place=True, backup=model.with_name("M.ONNX"), validate=False)
    one, other = (Making("x", tmp_path / name) for name in ("caf\u00e9.html", "CAFE\u0301.html"))
    with pytest.raises(UsageError, match="are the same file"):
        check_makings([one, other], list)


def test_a_model_that_was_replaced_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody else wrote while the model was pruned is not replaced by a cut of the older one."""
    model = fresh(tmp_path / "place", outside=False)
    newer = toys.attention(extra_weight=6000).SerializeToString()
    write = stage.Stage.write

    def meanwhile(self: Any) -> None:
        model.with_name("newer").write_bytes(newer)
        model.with_name("newer").replace(model)
        write(self)

    monkeypatch.setattr(stage.Stage, "write", meanwhile)
    with pytest.raises(HeadPruneError, match="modified after it was read"):
        prune(model, heads="0:1", in_place=True, backup=model.with_name("kept.onnx"), validate=False)
    assert model.read_bytes() == newer
    assert [path.name for path in model.parent.iterdir()] == [model.name]


@pytest.mark.slow
def test_a_failure_after_the_model_was_named_leaves_its_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt that comes when all is done must not take the backup away with it."""
    model = fresh(tmp_path / "place", outside=True)
    original, kept = complete(model), model.with_name("kept.onnx")
    give = stage.give_name

    def interrupted(made: Path, target: Path) -> None:
        give(made, target)
        if target == model:
            raise KeyboardInterrupt

    monkeypatch.setattr(stage, "give_name", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prune(model, heads="0:1", in_place=True, backup=kept, validate=False, external_data="always")
    assert complete(kept) == original != complete(model)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755])
@pytest.mark.parametrize("external", ["never", "always"])
def test_mode_and_group_are_kept_in_place(tmp_path: Path, mode: int, external: Any) -> None:
    model = fresh(tmp_path / "place", outside=False)
    if os.geteuid() == 0:
        os.chown(model, -1, 23456)
    model.chmod(mode)
    before = model.stat()
    prune(
        model,
        heads="0:1",
        in_place=True,
        backup=model.with_name("kept.onnx"),
        validate=False,
        external_data=external,
    )
    made = [path for path in model.parent.iterdir() if path.name != "kept.onnx"]
    assert len(made) == (1 if external == "never" else 2)
    for path in made:
        found = path.stat()
        assert (found.st_mode, found.st_gid) == (before.st_mode, before.st_gid)


def test_a_link_is_not_pruned_in_place(tmp_path: Path, command: Command) -> None:
    model = fresh(tmp_path / "place", outside=False)
    link = model.with_name("link.onnx")
    link.symlink_to(model)
    outcome = command("prune", link, "--in-place", "--backup", tmp_path / "kept.onnx", "--heads", "0:1")
    assert outcome.exit_code == 2 and "name that file" in outcome.stderr
    assert link.is_symlink() and not (tmp_path / "kept.onnx").exists()
