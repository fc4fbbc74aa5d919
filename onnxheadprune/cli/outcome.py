"""The end of a command: exit codes, the one line of an error, the JSON of an error, and whether output was written.

stdout and stderr are taken as they really are: closed, full, piped into a program that left, or ASCII only. Whether a
report could be printed is no verdict on a model: what a command has to say decides the exit code.
"""

from __future__ import annotations

import contextlib
import errno
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING

import click

from onnxheadprune.errors import (
    HeadPruneError,
    ValidationFailedError,
    is_interrupt,
    shortage,
)

if TYPE_CHECKING:
    from onnxheadprune.validation.result import Validation
import io
import os
from pathlib import Path
from typing import Any, TextIO

USAGE = 2
NOT_WRITTEN = 74
INTERRUPTED = 130
BUG = 70
MOST_LETTERS = 4000
"""Of one error; longer ones quote names of a model, which may have millions."""


def outcome_of(program: Callable[[], click.Group], arguments: Sequence[str]) -> int:
    """Run a command line; every exception becomes a message and an exit code, those of loading the program too."""
    if not sys.warnoptions:
        # What onnx or numpy deprecate is the developers' business; tests turn warnings into errors.
        warnings.simplefilter("ignore")
    with _steadfast():
        with _noted_interrupts() as interrupts:
            code, message, error = _ended(program, arguments)
        if message is not None:
            if interrupts:
                code, message = INTERRUPTED, "interrupted"
            verbose = not {"-v", "--verbose"}.isdisjoint(arguments)
            if error is not None and (code == BUG or (verbose and code != USAGE)):
                from onnxheadprune.reporting.console import err

                err().print("".join(traceback.format_exception(error)), soft_wrap=True)
            validation = error.validation if isinstance(error, ValidationFailedError) else None
            _fail(message, code, "--json" in arguments, validation)
        elif interrupts:
            # A training that is stopped is written as far as it came, and its result says so.
            code = code or INTERRUPTED
        sys.stdout.flush()
        lost: str | None = getattr(sys.stdout, "lost", None)
        if lost is not None and code in (0, INTERRUPTED):
            _fail(f"the output could not be written: {lost}", NOT_WRITTEN, as_json=False)
            code = NOT_WRITTEN
    return code


@contextlib.contextmanager
def _noted_interrupts() -> Iterator[list[int]]:
    """Note every Ctrl-C, which is raised as ever.

    Libraries that are stopped while they load say that they cannot be imported, and not always what stopped them.
    """
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(number)
        signal.default_int_handler(number, frame)

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield came
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _ended(
    program: Callable[[], click.Group], arguments: Sequence[str]
) -> tuple[int, str | None, BaseException | None]:
    """Run a command line and return its exit code, and where it failed what to print and the error."""
    try:
        result = program().main(
            args=list(arguments), prog_name="onnxheadprune", standalone_mode=False, obj=tuple(arguments)
        )
    except click.ClickException as error:
        return USAGE, _with_help(error), error
    except HeadPruneError as error:
        return error.exit_code, _bounded(str(error)), error
    except MemoryError as error:
        # The error itself holds all that was in memory when it was raised, and there has to be some for a sentence.
        return HeadPruneError.exit_code, shortage(error), MemoryError()
    except (KeyboardInterrupt, click.Abort) as error:
        return INTERRUPTED, "interrupted", error
    except (Exception, SystemExit) as error:
        if is_interrupt(error):
            return INTERRUPTED, "interrupted", error
        if lack := shortage(error):
            return HeadPruneError.exit_code, lack, error
        what = (
            f"this is a bug in onnxheadprune ({type(error).__name__}); please report it with the lines above"
        )
        return BUG, what, error
    return (result if isinstance(result, int) else 0), None, None


def printable(document: Mapping[str, object]) -> str:
    """The one JSON document of a command, as it is printed."""
    from onnxheadprune.model.documents import finite
    from onnxheadprune.model.typed_json import json_text
    from onnxheadprune.settings.words import option, spelled_by

    return spelled_by(option, json_text(finite(document), indent=2)) + "\n"


def emit_json(document: Mapping[str, object]) -> None:
    """Print the one JSON document of a command."""
    sys.stdout.write(printable(document))


def warn_if_random(data: object) -> None:
    """Say of a result that heads look different on inputs that are drawn."""
    from onnxheadprune.settings.inputs import RANDOM

    if data == RANDOM:
        from onnxheadprune.reporting.console import err

        err().print("warning: calibrated on random inputs; heads look different on real ones", style="yellow")


def _fail(message: str, exit_code: int, as_json: bool, validation: Validation | None = None) -> None:
    from onnxheadprune.reporting.console import err, print_error

    if as_json:
        details: dict[str, object] = {}
        if validation is not None:
            from onnxheadprune.validation.headline import headline_of

            headline = headline_of([validation.to_dict()], failed=message)
            details = {"headline": headline.to_dict(), "validation": validation.to_dict()}
        emit_json({"error": message, "exit_code": exit_code, **details})
    elif validation is not None:
        from onnxheadprune.reporting.console import rows_of

        err().print(*rows_of(validation.facts()), sep="\n")
    print_error(message)


def _bounded(message: str) -> str:
    half = MOST_LETTERS // 2
    return message if len(message) <= MOST_LETTERS else f"{message[:half]} ... {message[-half:]}"


def _with_help(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return message if context is None else f"{message}; see {context.command_path} --help"


class _Steadfast:
    """A text stream that goes on without its file when that cannot be written any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: str | None = None  # why some was not written, None if all was, or nobody wanted it

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            # click would write UTF-8 into it where the terminal has ASCII only.
            raise AttributeError(name)
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        # EPIPE: the reader left (`| head`) and has all that it wanted. EBADF: nobody reads what is closed, also if the
        # descriptor belonged to another file, open for reading, before this program could look.
        if error.errno not in (errno.EPIPE, errno.EBADF):
            self.lost = error.strerror or str(error)
        with contextlib.suppress(OSError, io.UnsupportedOperation):
            # What is still in the buffer goes where nobody complains, also when Python exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextlib.contextmanager
def _steadfast() -> Iterator[None]:
    """Replace stdout and stderr by streams that write what they can, in the letters that they have."""
    _reopen_closed()
    before = sys.stdout, sys.stderr
    wrapped = [(stream, stream.errors) for stream in before if isinstance(stream, io.TextIOWrapper)]
    for stream, _ in wrapped:
        stream.reconfigure(errors="backslashreplace")
    made: Any = tuple(map(_Steadfast, before))
    sys.stdout, sys.stderr = made
    try:
        yield
    finally:
        for stream in made:
            stream.flush()
        sys.stdout, sys.stderr = before
        for stream, errors in wrapped:
            stream.reconfigure(errors=errors)


def _reopen_closed() -> None:
    """Give closed standard streams the null device. Else the next file that is opened would be one of them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is given, which is this one; workers have it, too.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        elif stream.closed:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
