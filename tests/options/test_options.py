"""No option is ignored: in each mode of each command it changes the outcome or is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from onnxheadprune import batch_worker
from onnxheadprune.cli import group
from tests.conftest import Outcome
from tests.options.catalogue import INVISIBLE, JSON, MODES, OTHERWISE, TRIALS, Mode, Trial, Words
from tests.options.models import write_models

Command = Callable[..., Outcome]
LAWS = "would do nothing"
ECHOES = ("/seed", "/validation/seed")
"""Fields that repeat what was typed, whether it had an effect or not."""


@dataclass(frozen=True)
class Seen:
    """What a call did, as far as it can be compared: exit code, fields of the document, files."""

    code: int
    fields: Mapping[str, Any]
    files: Mapping[str, str]
    error: str


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, data and everything else that options name."""
    return write_models(tmp_path_factory.mktemp("shelf"))


class Here:
    """A worker of a batch without a process of its own, which is not what is tried here."""

    def run(self, job: batch_worker.Job) -> dict[str, Any]:
        return {**batch_worker._done(job), "seconds": 0.0}

    def close(self) -> None:
        """Nothing to end."""


@pytest.fixture
def look(
    shelf: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Words], Seen]:
    """Runs a command line in a fresh copy of the shelf; the same line is run once."""
    monkeypatch.setattr("onnxheadprune.batch.Worker", Here)
    monkeypatch.setattr("onnxheadprune.sweeping._speedup", lambda chooser, selection: 1.0, raising=False)
    monkeypatch.setattr("onnxheadprune.benchmarking.runner.ROUNDS", 1)
    monkeypatch.setattr("onnxheadprune.choosing.SECONDS", 0.01)
    monkeypatch.setattr("onnxheadprune.benchmarking.grid.LENGTHS", (4,))
    monkeypatch.setattr("onnxheadprune.benchmarking.grid.PASTS", (4,))
    monkeypatch.setattr("onnxheadprune.benchmarking.grid.BATCHES", (1,))
    monkeypatch.setattr("onnxheadprune.benchmarking.grid.EXTENTS", (8,))
    monkeypatch.syspath_prepend(str(shelf))

    def run(name: str, line: Words, number: int = 0) -> Seen:
        folder = tmp_path / "work"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(shelf, folder, copy_function=os.link)
        monkeypatch.chdir(folder)
        outcome = command(name, *line)
        return Seen(outcome.exit_code, _fields(outcome), _files(folder, shelf), outcome.stderr)

    return run


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


CASES = [(command, mode) for command, modes in MODES.items() for mode in modes]


def test_every_parameter_has_an_entry() -> None:
    declared = {name: {parameter.name for parameter in made.params} for name, made in group.commands.items()}
    assert declared == {name: set(trials) for name, trials in TRIALS.items()}
    assert set(MODES) == set(TRIALS)


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
        if (name, option) in INVISIBLE and other.code == 0:
            return False
        if _differs(base, other, lambda: seen(without, 1)):
            if option not in mode and LAWS not in other.error:
                USED.add((name, option))
            return False
    return True


USED: set[tuple[str, str]] = set()
