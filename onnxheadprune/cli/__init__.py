"""The command line. Heavy modules are imported inside the commands, so that `--help` answers at once.

Exit codes: 0 done; 1 validation failed or a limit broken; 2 wrong usage; 3 refused, unsupported or
unreadable model; 4 the asked-for execution provider is not usable; 70 a bug; 74 all was done, but stdout or a report
could not be written; 130 interrupted. A reader that leaves (`| head`) or a closed stdout change no exit code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from onnxheadprune import __version__
from onnxheadprune.cli.commands import CommandGroup, Commands
from onnxheadprune.cli.outcome import outcome_of

EPILOG = (
    "COMMAND --help shows examples and the options that most calls need, COMMAND --help-all all options. "
    "Exit codes: 0 done, 1 validation failed or a limit broken, 2 wrong usage, 3 refused, unsupported or"
    " unreadable model, 4 execution provider not usable, 74 stdout or a report could not be written."
)

COMPLETION = "_ONNXHEADPRUNE_COMPLETE"
"""Set by shells that have loaded the completion script."""


@click.group(
    cls=CommandGroup,
    commands=Commands(),
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="onnxheadprune")
def group() -> None:
    """Remove attention heads from exported ONNX transformers: exactly, safely and measurably."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit code.

    Args:
        arguments: the command line without the program's name; None reads it from `sys.argv`.
    """
    if arguments is None and COMPLETION in os.environ:
        # A shell asks what could come next: click answers and ends the process.
        group.main(prog_name="onnxheadprune")
    given = list(sys.argv[1:] if arguments is None else arguments)
    return outcome_of(group, given or ["--help"])
