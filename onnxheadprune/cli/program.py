"""All commands as one program of click, listed by workflow."""

from __future__ import annotations

import itertools
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from onnxheadprune import __version__
from onnxheadprune.cli import commands
from onnxheadprune.cli.guides import COMMANDS, ELSEWHERE, GUIDES


class CommandGroup(click.Group):
    """All commands, listed by workflow."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands for `--help`."""
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
        name = args[0] if args else ""
        if name in ELSEWHERE:
            raise click.UsageError(f"there is no command {name}; use {ELSEWHERE[name]}", ctx)
        if name not in self.commands and Path(name).exists():
            raise click.UsageError(f"{name} is no command; use inspect to see what is in it", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Give the names, and the options of the group, that begin so."""
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


@click.group(
    cls=CommandGroup,
    commands={name: getattr(commands, name) for name in COMMANDS},
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="onnxheadprune")
def group() -> None:
    """Remove attention heads from exported ONNX transformers: exactly, safely and measurably."""
