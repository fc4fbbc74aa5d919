"""The commands by name: each is imported when it is called, so that no call waits for what others need."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, MutableMapping

import click
from click.shell_completion import CompletionItem

NAMES = (
    *("inspect", "score", "doctor"),
    *("prune", "recover", "fuse", "quantize"),
    *("validate", "bench", "sweep", "combine", "report"),
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
    from onnxheadprune.cli.claiming import guarded

    module = importlib.import_module(f"onnxheadprune.cli.{MODULES.get(name, name)}")
    return guarded(getattr(module, name))


class CommandGroup(click.Group):
    """A group that lists its commands without importing them."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands for `--help`."""
        from onnxheadprune.cli.guides import GUIDES

        for title, guides in GUIDES.items():
            with formatter.section(title):
                formatter.write_dl([(name, guide.short) for name, guide in guides.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is called.

        Raises:
            click.UsageError: if there is none; what other programs call it leads to it.
        """
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
