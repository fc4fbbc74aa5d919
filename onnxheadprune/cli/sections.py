"""`--help` of commands with many options, in groups."""

from __future__ import annotations

import click

SECTIONS = (
    ("What goes", "heads neurons layers exit ratio keep target_speedup max_drift"),
    (
        "What a choice goes by",
        (
            "scores method protect units floor multiple_of neurons_multiple_of uniform compensate recover budget"
            " resume drift"
        ),
    ),
    (
        "Data",
        (
            "data text text_field target_field max_samples tokenizer max_length"
            " images image_size image_mean image_std random_data"
        ),
    ),
    ("How it is quantized", "to per_channel reduced block_size exclude"),
    (
        "What else changes",
        "mode fuse keep_cache_shape renumber_cache allow_io_change client per_layer_config",
    ),
    ("Where it runs", "provider seed jobs dask follow_links"),
    ("What is written", "output in_place backup external_data data_name no_validate accept_inconclusive"),
    ("What is shown", "dry_run report heatmap x as_json help"),
)
"""Titles, and names of the parameters below each; a command has some of them."""


def write_sections(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    """Writes the options in groups; what is in none comes last.

    Args:
        command: the command.
        context: of the call.
        formatter: what is written to.
    """
    rows: dict[str, tuple[str, str]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and isinstance(parameter, click.Option):
            # click makes the help option itself, under a name of its own.
            rows["help" if "--help" in parameter.opts else parameter.name or ""] = record
    for title, names in SECTIONS:
        found = [rows.pop(name) for name in names.split() if name in rows]
        if found:
            with formatter.section(title):
                formatter.write_dl(found)
    if rows:
        with formatter.section("Other options"):
            formatter.write_dl(list(rows.values()))
