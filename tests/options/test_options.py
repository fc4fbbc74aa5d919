"""No option is ignored: in each mode of each command it changes the outcome or is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from onnxheadprune.cli.program import group
from tests.conftest import Command, Outcome
from tests.options.catalogue import INVISIBLE, JSON, MODES, OTHERWISE, SAME, TRIALS, Mode, Trial, Words
from tests.options.models import write_models

ECHOES = ("/seed", "/validation/seed", "/run")
"""Fields that repeat what was typed, whether it had an effect or not."""


@dataclass(frozen=True)
class Seen:
    """What a call did, as far as it can be compared: exit code, fields of the document, files."""

    code: int
    fields: Mapping[str, Any]
    files: Mapping[str, str]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, data and everything else that options name."""
    return write_models(tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def look(
    shelf: Path,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch_in_process: None,
    one_glance: None,
) -> Callable[[str, Words], Seen]:
    """Runs a command line in a fresh copy of the shelf; the same line is run once."""
    monkeypatch.syspath_prepend(str(shelf))

    folder = tmp_path / "work"

    def run(name: str, line: Words, number: int = 0) -> Seen:
        # What was refused left all as it was: that copy is a fresh one still.
        if not folder.is_dir() or _files(folder, shelf) or _names(folder) != _names(shelf):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(shelf, folder, copy_function=os.link)
        monkeypatch.chdir(folder)
        outcome = command(name, *line)
        return Seen(outcome.exit_code, _fields(outcome), _files(folder, shelf))

    return run


def _names(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


def _fields(outcome: Outcome) -> dict[str, Any]:
    try:
        return dict(_flat(json.loads(outcome.stdout), ""))
    except ValueError:
        return {"text": outcome.stdout}


def _flat(value: Any, path: str) -> Any:
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    if items is None:
        yield path, value
        return
    for key, item in items:
        if f"{path}/{key}" not in ECHOES:
            yield from _flat(item, f"{path}/{key}")


def _files(folder: Path, shelf: Path) -> dict[str, str]:
    """Files that are new or changed, but for the record of a batch, which repeats what was asked for."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_dir() or path.name == "onnxheadprune-batch.json" or path.suffix == ".pyc":
            continue
        if not (shelf / name).is_file() or not path.samefile(shelf / name):
            found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _differs(one: Seen, other: Seen, again: Callable[[], Seen]) -> bool:
    """Whether `other` is not what all runs of the first line agree on; `again` is one more of them."""
    if one.code != other.code or one.files.keys() != other.files.keys():
        return True
    if one.fields.keys() != other.fields.keys():
        return True
    fields = [key for key, value in one.fields.items() if value != other.fields[key]]
    files = [name for name, digest in one.files.items() if digest != other.files[name]]
    if not fields and not files:
        return False
    more = again()
    return any(more.fields.get(key) == one.fields[key] for key in fields) or any(
        more.files.get(name) == one.files[name] for name in files
    )


def _line(mode: Mode, model: str, along: Words = ()) -> Words:
    words = [word for typed in mode.values() for word in typed]
    return tuple(word.replace("{model}", model) for word in (*words, *along))


CASES = [(command, mode) for command, modes in MODES.items() for mode in modes if (command, mode) not in SAME]


def test_every_parameter_has_an_entry() -> None:
    # How much is said of a call is tried in cli/test_help.py, what it may replace in files/test_replaced_files.py.
    spoken = {"quiet", "verbose", "help_all", "force"}
    declared = {
        name: {parameter.name for parameter in made.params} - spoken for name, made in group.commands.items()
    }
    assert declared == {name: set(trials) for name, trials in TRIALS.items()}
    assert set(MODES) == set(TRIALS)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode"), CASES, ids=[f"{command}-{mode}" for command, mode in CASES])
def test_no_option_is_ignored(name: str, mode: str, look: Callable[[str, Words], Seen]) -> None:
    ignored = [
        option
        for option, trial in TRIALS[name].items()
        if _ignored(name, MODES[name][mode] | JSON, option, trial, look)
    ]
    assert ignored == []


KNOWN: dict[tuple[str, Words], Seen] = {}


def _ignored(name: str, mode: Mode, option: str, trial: Trial, look: Callable[[str, Words], Seen]) -> bool:
    def seen(line: Words, number: int = 0) -> Seen:
        key = (f"{name}{number}", line)
        if key not in KNOWN:
            KNOWN[key] = look(name, line)
        return KNOWN[key]

    mode = trial.within(option, mode)
    if option in mode and (name, option) in OTHERWISE:
        bare = mode | {option: OTHERWISE[name, option]}
    else:
        bare = {key: typed for key, typed in mode.items() if key != option}
    along = () if option in mode else trial.along
    without = _line(bare, trial.model, along)
    base = seen(without)
    if base.code == 2 and option not in mode:
        return False
    for value in (mode[option],) if option in mode else trial.values:
        other = seen(_line(bare | {option: value} if option not in mode else mode, trial.model, along))
        if other.code == 2 or ((name, option) in INVISIBLE and other.code == 0):
            return False
        if _differs(base, other, lambda: seen(without, 1)):
            return False
    return True


@pytest.mark.parametrize("name", sorted(TRIALS))
def test_every_option_is_accepted_somewhere(name: str) -> None:
    """A refusal everywhere would be an option that nobody can use, or a trial that is typed wrongly."""
    refused = [option for option, trial in TRIALS[name].items() if not _accepted(name, option, trial)]
    assert refused == []


def _accepted(name: str, option: str, trial: Trial) -> bool:
    for plain in MODES[name].values():
        mode = trial.within(option, plain)
        along = () if option in mode else trial.along
        line = _line(mode if option in mode else mode | {option: trial.values[0]}, trial.model, along)
        with contextlib.suppress(click.UsageError):
            group.commands[name].make_context(name, list(line))
            return True
    return False


@pytest.mark.parametrize("name", ["prune", "recover", "batch", "sweep"])
def test_help_has_every_option_in_a_group(name: str, command: Command) -> None:
    outcome = command(name, "--help-all")
    assert "Output:" in outcome.stdout
    assert "Options:" not in outcome.stdout and max(map(len, outcome.stdout.splitlines())) <= 80
    shown = [option for option in group.commands[name].params if isinstance(option, click.Option)]
    assert all(option.opts[-1] in outcome.stdout and not option.hidden for option in shown)


def test_an_ignored_option_is_noticed() -> None:
    """The comparison that the test of all options rests on can fail."""
    one = Seen(0, {"/a": 1, "/time": 0.1}, {"out": "x"})
    again = Seen(0, {"/a": 1, "/time": 0.2}, {"out": "x"})
    assert not _differs(one, Seen(0, {"/a": 1, "/time": 0.3}, {"out": "x"}), lambda: again)
    assert _differs(one, Seen(0, {"/a": 2, "/time": 0.3}, {"out": "x"}), lambda: again)
    assert _differs(one, Seen(0, {"/a": 1, "/time": 0.3}, {"out": "y"}), lambda: again)
