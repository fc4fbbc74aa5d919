"""The commands by name: each is imported when it is called, so that no call waits for what others need."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, MutableMapping

import click
from click.shell_completion import CompletionItem

SHORT = {
    "batch": "Prune a folder of models.",
    "bench": "Measure latency side by side.",
    "combine": "Pruned and quantized: measure both orders.",
    "doctor": "Show what is installed and where models can run.",
    "fuse": "Write attention as fused operators.",
    "inspect": "Show the sites and their heads.",
    "prune": "Remove heads and other units, prove it exact, write.",
    "quantize": "Quantize with ONNX Runtime's own quantizer.",
    "recover": "Train the remaining weights of a pruned model on your data.",
    "report": "Make one HTML page of what other commands print.",
    "run": "Run a job file and check its limits.",
    "score": "Score heads by importance.",
    "sweep": "Draw the curve of drift, accuracy and speed.",
    "validate": "Compare a pruned model with the masked original.",
}
"""What each command does, in a line: all that `--help` and the completion of shells say of it."""
MODULES = {"report": "reporting"}
"""Of commands whose name is that of something else here."""


class Commands(MutableMapping[str, click.Command]):
    """All commands by name, each imported when it is first looked up."""

    def __init__(self) -> None:
        self._loaded: dict[str, click.Command | None] = dict.fromkeys(SHORT)

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
    command = guarded(getattr(module, name))
    command.short_help = SHORT[name]
    return command


class CommandGroup(click.Group):
    """A group that lists its commands without importing them."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands for `--help`."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, SHORT[name]) for name in self.list_commands(ctx)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Give the names, and the options of the group, that begin so."""
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        return [
            *(CompletionItem(name, help=SHORT[name]) for name in names),
            *click.Command.shell_complete(self, ctx, incomplete),
        ]
