"""Every figure of the documentation, measured again and compared with what is written.

    python benchmarks/all.py --quick                       # minutes: sample models only
    python benchmarks/all.py --quick --minilm FOLDER       # with all-MiniLM-L6-v2 (sample_models/export_minilm.py)
    python benchmarks/all.py --minilm FOLDER               # hours: everything
    python benchmarks/all.py --list                        # which figures, by which command, and which by none

`figures.toml` says where each figure stands and which script makes it. A figure that is off by more than a tenth, or
that its script does not print, is reported and ends in exit code 1; seconds are shown beside each other, since another
machine has others. `--keep DIR` keeps what the scripts printed, and `--from DIR` compares with that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from figures import ROOT, Finding, Registry, RegistryError, Run, compared, figures_of, read_registry


def carried_out(run: Run, paths: Mapping[str, Path]) -> Any:
    """What a script printed, as JSON.

    Raises:
        click.ClickException: if it failed, or printed something else.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "result.json")
        places = {"{out}": str(out)} | {f"{{{name}}}": str(path) for name, path in paths.items()}
        words = []
        for word in run.command:
            for name, place in places.items():
                word = word.replace(name, place)
            words.append(word)
        command = [sys.executable, str(ROOT / "benchmarks" / words[0]), *words[1:]]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
        }
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        text = out.read_text(encoding="utf-8") if run.needs("out") and out.exists() else done.stdout
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            told = (done.stderr or done.stdout).strip()[-500:]
            raise click.ClickException(f"{' '.join(run.command)} gave no figures: {told}") from None


def wanted(registry: Registry, quick: bool, only: Sequence[str], paths: Mapping[str, Path]) -> list[Run]:
    """The runs to make: those whose files are there."""
    runs = [
        run for run in registry.runs.values() if (run.quick or not quick) and (not only or run.name in only)
    ]
    for run in runs:
        if any(run.needs(name) and name not in paths for name in ("minilm", "tokenizer")):
            click.echo(f"left out: {run.name} needs --minilm", err=True)
    return [
        run
        for run in runs
        if not any(run.needs(name) and name not in paths for name in ("minilm", "tokenizer"))
    ]


def report(found: Sequence[Finding], as_json: bool) -> int:
    """Prints findings; those that are off last, where they are seen."""
    order = ("agrees", "seconds", "not measured", "off")
    if as_json:
        rows = [
            {
                "place": item.figure.place,
                "run": item.figure.run,
                "key": item.figure.key,
                "stated": item.figure.stated,
                "measured": item.measured,
                "verdict": item.verdict,
            }
            for item in found
        ]
        click.echo(json.dumps(rows, indent=1))
    else:
        click.echo(f"{'':12} {'written':>10} {'measured':>10}")
        for item in sorted(found, key=lambda item: order.index(item.verdict)):
            click.echo(item.line())
        counts = Counter(item.verdict for item in found)
        click.echo(", ".join(f"{counts[name]} {name}" for name in order if counts[name]))
    return int(any(item.verdict in ("off", "not measured") for item in found))


def listed(registry: Registry) -> None:
    """Prints what makes which figures."""
    counts = Counter(figure.run for figure in figures_of(registry))
    for run in registry.runs.values():
        click.echo(
            f"{counts[run.name]:4} figures  {'quick' if run.quick else 'slow':5}  {' '.join(run.command)}"
        )
    for other in registry.others:
        click.echo(f"{other['document']}, {other.get('section', 'top')}: {other['why']}")


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Only what takes minutes.")
@click.option(
    "--minilm",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    envvar="ONNXHEADPRUNE_MINILM",
    help="A folder with all-MiniLM-L6-v2: model.onnx and tokenizer.json.",
)
@click.option("--only", multiple=True, metavar="RUN", help="Only this run; can be repeated.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Where to keep the results.")
@click.option(
    "--from",
    "kept",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Compare with results that were kept; run nothing.",
)
@click.option("--list", "only_list", is_flag=True, help="Say what makes which figures.")
@click.option("--json", "as_json", is_flag=True)
def main(
    quick: bool,
    minilm: Path | None,
    only: tuple[str, ...],
    keep: Path | None,
    kept: Path | None,
    only_list: bool,
    as_json: bool,
) -> None:
    """Measures and compares."""
    registry = read_registry()
    if only_list:
        listed(registry)
        return
    try:
        figures = figures_of(registry)
    except RegistryError as error:
        raise click.ClickException(str(error)) from error
    paths = (
        {} if minilm is None else {"minilm": minilm / "model.onnx", "tokenizer": minilm / "tokenizer.json"}
    )
    results: dict[str, Any] = {}
    if kept is not None:
        for path in sorted(kept.glob("*.json")):
            results[path.stem] = json.loads(path.read_text(encoding="utf-8"))
    else:
        for run in wanted(registry, quick, only, paths):
            start = time.monotonic()
            click.echo(f"{run.name}: python benchmarks/{' '.join(run.command)}", err=True)
            results[run.name] = carried_out(run, paths)
            click.echo(f"{run.name}: {time.monotonic() - start:.0f} s", err=True)
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{run.name}.json").write_text(
                    json.dumps(results[run.name], indent=1), encoding="utf-8"
                )
    sys.exit(report(compared(figures, results), as_json))


if __name__ == "__main__":
    main()
