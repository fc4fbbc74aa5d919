"""A page for every command, made of its own `--help`: options in the same groups, in the same words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PROGRAM = "onnxheadprune"
ROW = '<tr id="{anchor}"><td>{option}</td><td>{help}</td></tr>'
CODE = re.compile(r"`([^`]+)`|(?<![\w-])(--[a-z][\w-]*)")
"""What help says in letters that are typed: quoted names, and options."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds `commands/NAME.md` for every command of the program, and a page about all of them."""
    from onnxheadprune.cli.program import group

    context = click.Context(group, info_name=PROGRAM)
    commands = {name: group.get_command(context, name) for name in group.list_commands(context)}
    shown = {name: command for name, command in commands.items() if command and not command.hidden}
    files.append(File.generated(config, "commands/index.md", content=overview(shown, group.epilog or "")))
    for name, command in shown.items():
        content = page_of(name, command, context)
        files.append(File.generated(config, f"commands/{name}.md", content=content))
    return files


def overview(commands: dict[str, click.Command], epilog: str) -> str:
    """All commands with a line about each.

    Args:
        commands: by their names.
        epilog: what the program says below its commands.
    """
    rows = [
        f"| [`{name}`]({name}.md) | {command.get_short_help_str(200)} |" for name, command in commands.items()
    ]
    table = "\n".join(["| command | description |", "|---|---|", *rows])
    return f"# Commands\n\n{table}\n\n<p>{_coded(epilog)}</p>\n"


def page_of(name: str, command: click.Command, parent: click.Context) -> str:
    """The page of one command.

    Args:
        name: of the command.
        command: the command.
        parent: the context of the program.
    """
    context = click.Context(command, info_name=name, parent=parent)
    text = command.get_help(context)
    usage = " ".join(text.partition("\n\n")[0].split()).removeprefix("Usage: ")
    about = "\n".join(f"<p>{_coded(part)}</p>" for part in (command.help or "").split("\n\n"))
    tables = "\n\n".join(_table(title, rows) for title, rows in sections(command, context))
    from onnxheadprune.cli.guides import COMMANDS

    examples = "\n".join(f"{PROGRAM} {example}" for example in COMMANDS[name].examples)
    return f"# {name}\n\n```text\n{usage}\n```\n\n{about}\n\n```sh\n{examples}\n```\n\n{tables}\n"


def sections(command: click.Command, context: click.Context) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The groups of options that `--help` shows, each with what it says of every option.

    Args:
        command: the command.
        context: of a call of it.
    """
    written = Recorded()
    command.format_options(context, written)
    yield from written.found


class Recorded(click.HelpFormatter):
    """Keeps what a command writes into its help, in place of laying it out."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.found: list[tuple[str, list[tuple[str, str]]]] = []

    def write_heading(self, heading: str) -> None:
        """Remembers the title of what follows."""
        self.title = heading

    def write_dl(self, rows: object, col_max: int = 30, col_spacing: int = 2) -> None:
        """Keeps options, with what is said of each."""
        self.found.append((self.title, list(rows)))  # type: ignore[call-overload]


def _coded(text: str) -> str:
    """Help as HTML that shows it letter for letter, and what is typed as code."""
    plain = escape(" ".join(text.split()), quote=False)
    return CODE.sub(lambda match: _code(match[1] or match[2]), plain)


def _code(text: str) -> str:
    return f'<code class="option">{text}</code>'


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    made = "\n".join(
        ROW.format(anchor=_anchor(option), option=_option(option), help=_coded(text)) for option, text in rows
    )
    return f'## {title}\n\n<table class="options">\n{made}\n</table>'


def _option(option: str) -> str:
    """An option and what it takes, broken between words only."""
    return " ".join(_code(escape(word, quote=False)) for word in option.split() if word != "/")


def _anchor(option: str) -> str:
    """`--ratio` is `ratio`, so pages can lead to it."""
    return next((word[2:] for word in re.findall(r"--[\w-]+", option)), option.split()[0].lstrip("-"))
