"""The help of the commands: by workflow, with a sentence, examples, and the options that most calls need."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import click


@dataclass(frozen=True)
class Guide:
    """Help text of a command, kept apart from its module, so that help does not import it."""

    short: str  # what it does, in a line
    examples: tuple[str, ...]  # calls, without the name of the program
    common: str = ""  # settings that most calls need; all, where there are few


GUIDES = {
    "Look at a model": {
        "inspect": Guide(
            "Show the sites and their heads.",
            ("inspect model.onnx", "inspect bert", "inspect model.onnx --json"),
        ),
        "score": Guide(
            "Score heads by importance.",
            (
                "score model.onnx",
                "score model.onnx --data data.npz -o scores.csv",
                "score model.onnx --data lines.txt --heatmap heads.svg",
            ),
            "method data tokenizer units output heatmap provider as_json",
        ),
        "doctor": Guide(
            "Show what is installed and where models can run.",
            ("doctor", "doctor --provider cpu", "doctor --json"),
        ),
    },
    "Make it smaller": {
        "prune": Guide(
            "Remove heads and other units, prove it exact, write.",
            (
                'prune model.onnx --heads "0:1 1:0,2"',
                "prune model.onnx --ratio 25% --data data.npz -o smaller.onnx",
                'prune bert --heads "*:1" --runtime ort',
            ),
            "heads neurons layers ratio target_size max_drift units data recover runtime output report dry_run",
        ),
        "recover": Guide(
            "Train the remaining weights of a pruned model on your data.",
            (
                "recover model.onnx pruned.onnx --data data.npz",
                "recover model.onnx pruned.onnx --data data.npz --budget 5",
                "recover model.onnx pruned.onnx --data lines.txt --budget 2s",
            ),
            "budget data tokenizer resume provider output report as_json",
        ),
        "quantize": Guide(
            "Quantize with ONNX Runtime's own quantizer.",
            (
                "quantize pruned.onnx --to int8-dynamic",
                "quantize pruned.onnx --to int8-qdq --data data.npz",
                "quantize pruned.onnx --to int8-dynamic -o small.onnx --json",
            ),
            "to per_channel exclude data tokenizer output as_json",
        ),
    },
    "Measure and compare": {
        "validate": Guide(
            "Compare a pruned model with the masked original.",
            (
                "validate model.onnx pruned.onnx",
                "validate model.onnx pruned.onnx --data data.npz --max-drift 0.02",
                'validate model.onnx pruned.onnx --heads "0:1" --json',
            ),
            "data tokenizer metric max_drift strict min_speedup provider as_json",
        ),
        "bench": Guide(
            "Measure latency side by side.",
            (
                "bench model.onnx pruned.onnx",
                "bench model.onnx pruned.onnx --batch 1,8 --csv latency.csv",
                "bench model.onnx pruned.onnx --min-speedup 1.1",
            ),
            "batch seq past time_budget threads provider min_speedup plot as_json",
        ),
        "sweep": Guide(
            "Draw the curve of drift, accuracy and speed.",
            (
                "sweep model.onnx 0:50%:10% --data data.npz",
                "sweep model.onnx 0:50%:10% --data data.npz -o curve.svg",
                "sweep model.onnx 0:50%:10% --data lines.txt --units all",
            ),
            "units method refit recover data tokenizer output x as_json",
        ),
        "report": Guide(
            "Make one HTML page of what other commands print.",
            (
                "report result.json -o page.html",
                "report result.json curve.json -o page.html",
                "report result.json -o page.html --json",
            ),
        ),
    },
    "Work through many": {
        "run": Guide(
            "Run a job file and check its limits.",
            ("run job.yaml", "run job.yaml --set provider=cpu", "run job.yaml --junit results.xml"),
        ),
        "batch": Guide(
            "Prune a folder of models.",
            (
                'batch models --heads "*:1"',
                "batch models --ratio 25% --data data.npz -o smaller",
                'batch models --heads "*:1" --jobs 2',
            ),
            "heads ratio keep units data tokenizer output jobs fuse as_json",
        ),
    },
}
"""The commands by workflow, with all that help and the completion of shells say of them."""
COMMANDS = {name: guide for guides in GUIDES.values() for name, guide in guides.items()}
ELSEWHERE = {
    "compare": "validate",
    "fuse": "prune",
    "check": "validate",
    "info": "inspect",
    "show": "inspect",
    "benchmark": "bench",
    "train": "recover",
    "finetune": "recover",
}
"""Other programs' names of commands."""


PROGRAM = "onnxheadprune"
FEW = 10
"""A command with fewer options shows them in one list."""


def write_all(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    """Write all that is known of a command."""
    command.format_usage(context, formatter)
    command.format_help_text(context, formatter)
    _write_examples(formatter, COMMANDS.get(command.name or ""))
    command.format_options(context, formatter)


def write_brief(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    """Write the usage, a sentence, examples, and the options that most calls need."""
    guide = COMMANDS.get(command.name or "")
    common = () if guide is None else guide.common.split()
    command.format_usage(context, formatter)
    formatter.write_paragraph()
    with formatter.indentation():
        formatter.write_text(_sentence(command.help or ""))
    _write_examples(formatter, guide)
    if not common:
        command.format_options(context, formatter)
        return
    options = {option.name: option for option in command.get_params(context)}
    rows = [record for name in common if (record := options[name].get_help_record(context)) is not None]
    with formatter.section("Options that most calls need"):
        formatter.write_dl(rows)
    formatter.write_paragraph()
    formatter.write_text(
        f"All {len(_records_of(command, context))} options: {context.command_path} --help-all"
    )


def _write_examples(formatter: click.HelpFormatter, guide: Guide | None) -> None:
    """Write calls as they are typed."""
    if guide is None:
        return
    with formatter.section("Examples"):
        for example in guide.examples:
            formatter.write(f"{'':{formatter.current_indent}}{PROGRAM} {example}\n")


def write_sections(formatter: click.HelpFormatter, rows: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Write options in the order of their sections, or in one list where they are few."""
    from onnxheadprune.settings.setting import SECTIONS

    if sum(map(len, rows.values())) < FEW:
        rows = {"Options": [record for title in SECTIONS for record in rows.get(title, ())]}
    for title in (*SECTIONS, "Options"):
        if rows.get(title):
            with formatter.section(title):
                formatter.write_dl(list(rows[title]))


def _records_of(command: click.Command, context: click.Context) -> Collection[tuple[str, str]]:
    found = (option.get_help_record(context) for option in command.get_params(context))
    return [record for record in found if record is not None]


def _sentence(text: str) -> str:
    first = " ".join(text.partition("\n\n")[0].split())
    return f"{first.partition('. ')[0].rstrip('.')}."
