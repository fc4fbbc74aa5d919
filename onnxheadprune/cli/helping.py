"""The help of a command: one sentence, examples, and the options that most calls need; the rest on request."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import click

from onnxheadprune.cli.guides import COMMANDS, Guide
from onnxheadprune.settings.setting import SECTIONS

PROGRAM = "onnxheadprune"
FEW = 10
"""A command with fewer options shows them in one list."""


def write_all(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    """Write all that is known of a command."""
    command.format_usage(context, formatter)
    command.format_help_text(context, formatter)
    write_examples(formatter, COMMANDS.get(command.name or ""))
    command.format_options(context, formatter)


def write_brief(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    """Write the usage, a sentence, examples, and the options that most calls need."""
    guide = COMMANDS.get(command.name or "")
    common = () if guide is None else guide.common.split()
    command.format_usage(context, formatter)
    formatter.write_paragraph()
    with formatter.indentation():
        formatter.write_text(_sentence(command.help or ""))
    write_examples(formatter, guide)
    if not common:
        command.format_options(context, formatter)
        return
    options = {option.name: option for option in command.get_params(context)}
    rows = [record for name in common if (record := options[name].get_help_record(context)) is not None]
    with formatter.section("Options that most calls need"):
        formatter.write_dl(rows)
    formatter.write_paragraph()
    formatter.write_text(
        f"All {len(records_of(command, context))} options: {context.command_path} --help-all"
    )


def write_examples(formatter: click.HelpFormatter, guide: Guide | None) -> None:
    """Write calls as they are typed."""
    if guide is None:
        return
    with formatter.section("Examples"):
        for example in guide.examples:
            formatter.write(f"{'':{formatter.current_indent}}{PROGRAM} {example}\n")


def write_sections(formatter: click.HelpFormatter, rows: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Write options in the order of their sections, or in one list where they are few."""
    if sum(map(len, rows.values())) < FEW:
        rows = {"Options": [record for title in SECTIONS for record in rows.get(title, ())]}
    for title in (*SECTIONS, "Options"):
        if rows.get(title):
            with formatter.section(title):
                formatter.write_dl(list(rows[title]))


def records_of(command: click.Command, context: click.Context) -> Collection[tuple[str, str]]:
    """What help says of each option."""
    found = (option.get_help_record(context) for option in command.get_params(context))
    return [record for record in found if record is not None]


def _sentence(text: str) -> str:
    """The first sentence of the first paragraph."""
    first = " ".join(text.partition("\n\n")[0].split())
    return f"{first.partition('. ')[0].rstrip('.')}."
