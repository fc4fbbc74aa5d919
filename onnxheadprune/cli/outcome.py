"""How a command ends: exit codes, the one line of an error, the JSON of an error."""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from onnxheadprune.cli.streams import steadfast
from onnxheadprune.errors import HeadPruneError, ValidationFailedError

if TYPE_CHECKING:
    from onnxheadprune.validation.result import Validation

NOT_WRITTEN = 74
INTERRUPTED = 130
BUG = 70


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


def _run(group: click.Group, arguments: Sequence[str], as_json: bool) -> int:
    try:
        result = group.main(
            args=list(arguments), prog_name="onnxheadprune", standalone_mode=False, obj=tuple(arguments)
        )
    except click.ClickException as error:
        return _fail(_with_help(error), 2, as_json)
    except ValidationFailedError as error:
        return _fail(str(error), error.exit_code, as_json, validation=error.validation)
    except HeadPruneError as error:
        return _fail(str(error), error.exit_code, as_json)
    except MemoryError:
        return _fail("there is not enough memory for this", HeadPruneError.exit_code, as_json)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", INTERRUPTED, as_json)
    except (Exception, SystemExit) as error:
        from onnxheadprune.cli.report.console import err

        if _is_interrupt(error):
            return _fail("interrupted", INTERRUPTED, as_json)
        err().print(traceback.format_exc(), soft_wrap=True)
        return _fail(
            f"this is a bug in onnxheadprune ({type(error).__name__}); please report it with the lines above",
            BUG,
            as_json,
        )
    return result if isinstance(result, int) else 0


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether an interrupt is behind an error: modules that are stopped while they load raise others from it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def emit_json(document: Mapping[str, object]) -> None:
    """Prints the one JSON document of a command."""
    from onnxheadprune.model.documents import finite

    sys.stdout.write(json.dumps(finite(document), indent=2, allow_nan=False) + "\n")


def moved(command: str, rest: str, *, as_json: bool) -> None:
    """One line on stderr where an option has become a command; nothing beside JSON.

    Args:
        command: its name and its argument.
        rest: what comes behind them.
        as_json: whether the caller reads a document.
    """
    if not as_json:
        from onnxheadprune.cli.report.console import err

        line = f"note: this has become a command of its own: onnxheadprune {command} {rest}"
        err().print(line, soft_wrap=True)


def _fail(message: str, exit_code: int, as_json: bool, validation: Validation | None = None) -> int:
    from onnxheadprune.cli.report.console import err, print_error

    if as_json:
        details = {} if validation is None else {"validation": validation.to_dict()}
        emit_json({"error": message, "exit_code": exit_code, **details})
    elif validation is not None:
        from onnxheadprune.cli.report.validation import validation_report

        err().print(*validation_report(validation), sep="\n")
    print_error(message)
    return exit_code


def _with_help(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return message if context is None else f"{message}; see {context.command_path} --help"
