"""The end of a command: exit codes, the one line of an error, the JSON of an error."""

from __future__ import annotations

import contextlib
import errno
import json
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

import click

from onnxheadprune.cli.streams import steadfast
from onnxheadprune.errors import HeadPruneError, ValidationFailedError, is_interrupt, options_named

if TYPE_CHECKING:
    from onnxheadprune.validation.headline import Headline
    from onnxheadprune.validation.result import Validation

NOT_WRITTEN = 74
INTERRUPTED = 130
BUG = 70
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where no more can be written. Of outputs somebody else tells; this is about temporary files."""
MOST_LETTERS = 4000
"""Of one error; longer ones quote names of a model, which may have millions."""


@options_named()
def outcome_of(group: click.Group, arguments: Sequence[str]) -> int:
    """Runs a command line; every exception becomes a message and an exit code."""
    if not sys.warnoptions:
        # What onnx or numpy deprecate is the developers' business; tests turn warnings into errors.
        warnings.simplefilter("ignore")
    as_json = "--json" in arguments
    with steadfast() as streams:
        code = _run(group, arguments, as_json)
        sys.stdout.flush()
        if streams.lost is not None:
            code = code or _fail(
                f"the output could not be written: {streams.lost}", NOT_WRITTEN, as_json=False
            )
    return code


@dataclass(frozen=True)
class Ended:
    """The end of a command."""

    exit_code: int
    message: str | None = None
    error: BaseException | None = None


def ended(group: click.Group, arguments: Sequence[str]) -> Ended:
    """Runs a command line and says how it ended, but prints no error."""
    with _noted_interrupts() as came:
        end = _ended(group, arguments)
    if came and end.message is not None:
        return Ended(INTERRUPTED, "interrupted", end.error)
    return end


@contextlib.contextmanager
def _noted_interrupts() -> Iterator[list[int]]:
    """Notes every Ctrl-C, which is raised as ever.

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


def _ended(group: click.Group, arguments: Sequence[str]) -> Ended:
    try:
        result = group.main(
            args=list(arguments), prog_name="onnxheadprune", standalone_mode=False, obj=tuple(arguments)
        )
    except click.ClickException as error:
        return Ended(2, _with_help(error), error)
    except HeadPruneError as error:
        return Ended(error.exit_code, _bounded(str(error)), error)
    except MemoryError:
        # The error itself holds all that was in memory when it was raised, and there has to be some for a sentence.
        return Ended(HeadPruneError.exit_code, "there is not enough memory for this", MemoryError())
    except (KeyboardInterrupt, click.Abort) as error:
        return Ended(INTERRUPTED, "interrupted", error)
    except (Exception, SystemExit) as error:
        if is_interrupt(error):
            return Ended(INTERRUPTED, "interrupted", error)
        if isinstance(error, OSError) and error.errno in FULL:
            return Ended(HeadPruneError.exit_code, _no_room(), error)
        what = (
            f"this is a bug in onnxheadprune ({type(error).__name__}); please report it with the lines above"
        )
        return Ended(BUG, what, error)
    return Ended(result if isinstance(result, int) else 0)


def _run(group: click.Group, arguments: Sequence[str], as_json: bool) -> int:
    end = ended(group, arguments)
    if end.message is None:
        return end.exit_code
    verbose = not {"-v", "--verbose"}.isdisjoint(arguments)
    if end.error is not None and (end.exit_code == BUG or verbose):
        from onnxheadprune.reporting.console import err

        err().print("".join(traceback.format_exception(end.error)), soft_wrap=True)
    validation = end.error.validation if isinstance(end.error, ValidationFailedError) else None
    return _fail(end.message, end.exit_code, as_json, validation)


def json_text(document: Mapping[str, object]) -> str:
    """The one JSON document of a command."""
    from onnxheadprune.model.documents import finite

    return json.dumps(finite(document), indent=2, allow_nan=False) + "\n"


def emit_json(document: Mapping[str, object]) -> None:
    """Prints the one JSON document of a command."""
    sys.stdout.write(json_text(document))


def _fail(message: str, exit_code: int, as_json: bool, validation: Validation | None = None) -> int:
    from onnxheadprune.reporting.console import err, print_error

    if as_json:
        details: dict[str, object] = {}
        if validation is not None:
            details = {
                "headline": _refused(message, validation).to_dict(),
                "validation": validation.to_dict(),
            }
        emit_json({"error": message, "exit_code": exit_code, **details})
    elif validation is not None:
        from onnxheadprune.reporting.validation import validation_report

        err().print(*validation_report(validation, _refused(message, validation)), sep="\n")
    print_error(message)
    return exit_code


def _refused(message: str, validation: Validation) -> Headline:
    from onnxheadprune.validation.headline import headline_of

    return headline_of([validation.to_dict()], failed=message)


def _no_room() -> str:
    return (
        f"no space is left in the temporary folder {tempfile.gettempdir()}, which holds what does not fit into memory;"
        " TMPDIR=FOLDER names another one"
    )


def _bounded(message: str) -> str:
    """A sentence as it can be read, without the middle of one that is far too long."""
    half = MOST_LETTERS // 2
    return message if len(message) <= MOST_LETTERS else f"{message[:half]} ... {message[-half:]}"


def _with_help(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return message if context is None else f"{message}; see {context.command_path} --help"
