"""The command `reduce`: what it takes, what it refuses, what it says; and the processes that it runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest

from onnxheadprune.cli import group
from onnxheadprune.cli.durations import duration
from onnxheadprune.cli.report.reduction import warnings_of
from onnxheadprune.cli.when import WRITES, read_when
from onnxheadprune.errors import UsageError
from onnxheadprune.workflow.reducing.ending import TIMEOUT, Ending
from onnxheadprune.workflow.reducing.process import ProcessTrier, Trier
from onnxheadprune.workflow.reducing.reduce import Reduction
from tests.conftest import Outcome
from tests.reducing.models import InProcess, stack

Command = Callable[..., Outcome]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Command lines run here: that they run elsewhere has tests of its own."""

    @contextlib.contextmanager
    def trier_with(_seconds: float, _memory: int | None) -> Iterator[Trier]:
        yield InProcess()

    monkeypatch.setattr("onnxheadprune.cli.reduce.trier_with", trier_with)


@pytest.fixture
def mixing(tmp_path: Path) -> Path:
    path = tmp_path / "acme.onnx"
    onnx.save(stack(1, mixing=0), path)
    return path


def test_what_it_says(command: Command, mixing: Path, in_process: None) -> None:
    small = mixing.with_name("small.onnx")
    outcome = command("reduce", mixing, "--when", "prune --heads 0:0", "-o", small)
    assert outcome.exit_code == 0 and not outcome.stderr
    assert "5 nodes of " in outcome.stdout and "exit code 3, RefusedError" in outcome.stdout
    assert "onnxheadprune prune small.onnx --heads 0:0 -o out.onnx" in outcome.stdout
    assert "warning" not in outcome.stdout
    again = command("prune", small, "--heads", "0:0", "-o", mixing.with_name("out.onnx"))
    assert again.exit_code == 3 and "mixes values across heads" in again.stderr


def test_json(command: Command, mixing: Path, in_process: None) -> None:
    small = mixing.with_name("small.onnx")
    outcome = command("reduce", mixing, "--when", "prune --heads 0:0", "-o", small, "--json")
    document = outcome.document
    assert document["nodes"] == {"before": len(stack(1, mixing=0).graph.node), "after": 5}
    assert document["failure"]["kind"] == "RefusedError" and document["confirmed"] is True
    assert document["output"] == str(small)


@pytest.mark.parametrize(
    ("when", "words"),
    [
        ("prune --heads 0:1", "prune does not fail on this model"),
        ("prune --heads 0:0 -o out.onnx", "leave -o out of --when"),
        ("prune --heads 0:0 -oout.onnx", "leave -o out of --when"),
        ("prune --heads 0:0 --output=out.onnx", "leave --output out of --when"),
        ("prune --heads 0:0 --report page.html", "leave --report out of --when"),
        ("prune --heads 0:0 --in-place --backup b.onnx", "leave --in-place out of --when"),
        ("prune --no-such-option", "--when is wrong whatever the model"),
        ("prune --heads 0:0 --resume", "--resume would do nothing"),
        ("prune --heads 0", "cannot read '0' in the head spec"),
        ("prune --help", "--when asks for help"),
        ("bench other.onnx", "--when takes one model"),
        ("validate", "not 'validate'"),
        ("reduce", "not 'reduce'"),
        ("", "not ''"),
        ("prune 'open", "--when cannot be read"),
    ],
)
def test_what_cannot_be_reduced_is_told(
    command: Command, tmp_path: Path, in_process: None, when: str, words: str
) -> None:
    path = tmp_path / "acme.onnx"
    onnx.save(stack(1, mixing=None), path)
    before = sorted(tmp_path.iterdir())
    outcome = command("reduce", path, "--when", when, "-o", tmp_path / "small.onnx")
    assert outcome.exit_code == 2 and words in outcome.stderr, outcome
    assert sorted(tmp_path.iterdir()) == before


def test_the_model_and_the_program_may_be_named() -> None:
    for spelled in ("prune --heads 3:0 --seed 1", "onnxheadprune prune MODEL --seed 1 --heads=3:0"):
        line, heads = read_when(spelled, group)
        assert heads == "3:0"
        assert line.arguments(Path("m"), (("0", (1, 2)), ("*", (3,))), Path("f")) == (
            "prune", "m", "--heads", "0:1,2 *:3", "--seed", "1", "-o", "f/out.onnx",
        )  # fmt: skip
    line, heads = read_when("prune --neurons 3:0-2 --layers 4 --heads=1:0 --seed 1", group)
    assert heads == {"1": (0,), "ffn.3": (0, 1, 2), "layer.4": "*"} and line.words == ("--seed", "1")
    named = (("1", (0,)), ("layer.4", ()))
    assert line.arguments(Path("m"), named, Path("f"))[2:4] == ("--heads", "1:0 layer.4:*")
    line, heads = read_when("sweep 0:0.5:0.5 --data d.npz", group)
    assert line.arguments(Path("m"), None, Path("f"))[:3] == ("sweep", "m", "0:0.5:0.5")
    assert read_when("prune --ratio 0.5 --dry-run", group)[0].written == ()


def test_every_command_with_one_model_can_be_reduced() -> None:
    """`reduce`, `batch`, `run` and those that take two models or none are not among them."""
    others = {"batch", "combine", "doctor", "recover", "reduce", "report", "run", "validate"}
    assert set(WRITES) == set(group.commands) - others


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2H", 7200)])
def test_times(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["0", "-1s", "5d", "inf", "nan", "", "m"])
def test_what_is_no_time(text: str, command: Command, mixing: Path) -> None:
    outcome = command(
        "reduce", mixing, "--when", "inspect", "-o", mixing.with_name("o.onnx"), "--budget", text
    )
    assert outcome.exit_code == 2 and "no time like 90s, 5m or 1h" in outcome.stderr


def test_warnings() -> None:
    ending = Ending(3, "RefusedError", "no")
    found = Reduction(
        "m", "o", "c", ending, (9, 3), (9, 3), 2, 5, "interrupted", False, False, onnx.ModelProto()
    )
    sentences = list(warnings_of(found))
    assert [sentence.split()[0] for sentence in sentences] == ["interrupted,", "2", "it", "in"]


# Processes


def ends(arguments: tuple[str, ...]) -> Ending:
    """What the process is asked to do."""
    (what,) = arguments
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "exit":
        os._exit(7)
    if what == "sleep":
        subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], check=True)
    if what == "fill":
        try:
            bytearray(2**32)
        except MemoryError:
            return Ending(3, "MemoryError")
    os.write(2, b"noise past Python")
    return Ending(0, sentence=f"{os.getpid()} {os.getsid(0)}")


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs a POSIX system")
def test_processes(capfd: pytest.CaptureFixture[str]) -> None:
    trier = ProcessTrier(ends, 20, 2**31)
    try:
        first, again = trier.run(("",)).sentence, trier.run(("",)).sentence
        assert first == again, "one process serves many"
        process, session = first.split()
        assert process == session != str(os.getsid(0)), "Ctrl-C does not reach it"
        trier.renew()
        assert trier.run(("",)).sentence != first
        assert trier.run(("crash",)).exit_code == -signal.SIGSEGV
        assert trier.run(("exit",)).exit_code == 7
        assert trier.run(("fill",)).kind == "MemoryError"
        assert not trier.runs("no such model")
    finally:
        trier.renew()
    assert capfd.readouterr().err == ""


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs a POSIX system")
def test_what_takes_too_long_is_ended_with_all_it_started() -> None:
    trier = ProcessTrier(ends, 0.5, None)
    started = time.monotonic()
    assert trier.run(("sleep",)) == Ending(TIMEOUT)
    assert time.monotonic() - started < 20
    trier.renew()


@pytest.mark.long
def test_from_the_shell(mixing: Path) -> None:
    small = mixing.with_name("small.onnx")
    words = ["reduce", mixing, "--when", "prune --heads 0:0", "-o", small]
    done = subprocess.run([sys.executable, "-m", "onnxheadprune", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "fails       exit code 3, RefusedError" in done.stdout
    assert len(onnx.load(small).graph.node) == 5


@pytest.mark.long
def test_an_interrupt_from_the_terminal_writes_the_best_so_far(tmp_path: Path, digits: Path) -> None:
    """Of a search that takes much longer than this test waits for its first success."""
    small = tmp_path / "small.onnx"
    words = ["reduce", str(digits), "--when", "prune --heads 3:99", "-o", str(small)]
    code = "import onnxheadprune.cli.report.progress as p; p.QUIET_SECONDS = p.LINE_SECONDS = 0; import sys;"
    code += "from onnxheadprune.cli import main; sys.exit(main(sys.argv[1:]))"
    running = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stderr is not None
    for line in running.stderr:
        if "reducing: " in line:
            break
    running.send_signal(signal.SIGINT)
    printed, complained = running.communicate(timeout=120)
    assert running.returncode == 130, complained
    assert "interrupted, so more could go" in printed
    assert len(onnx.load(small).graph.node) > 5


def test_a_wrong_command_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        read_when("inspect --heads 0:1", group)
