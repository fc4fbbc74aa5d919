"""The command line. Heavy modules are imported inside the commands, so that `--help` answers at once.

Exit codes: 0 done; 1 validation failed or a limit broken; 2 wrong usage; 3 refused, unsupported or
unreadable model; 4 the asked-for execution provider is not usable; 70 a bug; 74 all was done, but stdout or a report
could not be written; 130 interrupted. A reader that leaves (`| head`) or a closed stdout change no exit code.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from collections.abc import Iterator, MutableMapping, Sequence

import click
from click.shell_completion import CompletionItem

from onnxheadprune import __version__
from onnxheadprune.cli.outcome import outcome_of

NAMES = (
    *("inspect", "score", "doctor"),
    *("prune", "recover", "fuse", "quantize"),
    *("validate", "bench", "sweep", "report"),
    *("run", "batch"),
)
"""All commands, as `guides` lists them by workflow."""
MODULES = {"report": "reporting"}
"""Of commands whose name is that of something else here."""


class Commands(MutableMapping[str, click.Command]):
    """All commands by name, each imported when it is first looked up."""

    def __init__(self) -> None:
        self._loaded: dict[str, click.Command | None] = dict.fromkeys(NAMES)

    def __getitem__(self, name: str) -> click.Command:
        found = self._loaded[name]
        if found is None:
            found = self._loaded[name] = _load(name)
        return found

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded)

    def __len__(self) -> int:
        return len(self._loaded)


def _load(name: str) -> click.Command:
    module = importlib.import_module(f"onnxheadprune.cli.{MODULES.get(name, name)}")
    found: click.Command = getattr(module, name)
    return found


class CommandGroup(click.Group):
    """A group that lists its commands without importing them."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands for `--help`."""
        from onnxheadprune.cli.guides import GUIDES

        for title, guides in GUIDES.items():
            with formatter.section(title):
                formatter.write_dl([(name, guide.short) for name, guide in guides.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line; what makes a command loud or quiet may stand before it, too."""
        loud = list(itertools.takewhile(LOUDNESS.__contains__, args))
        command, rest = args[len(loud) : len(loud) + 1], args[len(loud) + 1 :]
        return super().parse_args(ctx, [*command, *loud, *rest] if command else args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is called."""
        if args and args[0] not in self.commands:
            from onnxheadprune.cli.guides import ELSEWHERE

            if args[0] not in ELSEWHERE:
                return super().resolve_command(ctx, args)
            raise click.UsageError(f"there is no command {args[0]}; use {ELSEWHERE[args[0]]}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Give the names, and the options of the group, that begin so."""
        from onnxheadprune.cli.guides import COMMANDS

        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        return [
            *(CompletionItem(name, help=COMMANDS[name].short) for name in names),
            *click.Command.shell_complete(self, ctx, incomplete),
        ]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, by workflow."""
        return list(self.commands)


LOUDNESS = ("-q", "--quiet", "-v", "--verbose")
"""Options that all commands have."""
EPILOG = (
    "COMMAND --help shows examples and the options that most calls need, COMMAND --help-all all options. "
    "Exit codes: 0 done, 1 validation failed or a limit broken, 2 wrong usage, 3 refused, unsupported or"
    " unreadable model, 4 execution provider not usable, 70 a bug, 74 stdout or a report could not be written, 130"
    " interrupted."
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
    """Run one command and return its exit code.

    Args:
        arguments: the command line without the program's name; None reads it from `sys.argv`.
    """
    if arguments is None and COMPLETION in os.environ:
        # A shell asks what could come next: click answers and ends the process.
        from onnxheadprune.cli.completion import register

        register()
        group.main(prog_name="onnxheadprune")
    given = list(sys.argv[1:] if arguments is None else arguments)
    return outcome_of(group, given or ["--help"])
