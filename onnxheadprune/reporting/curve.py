"""The curve of a sweep: a table, and a picture with the knee marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from onnxheadprune.benchmarking.measure import NO_DIFFERENCE
from onnxheadprune.benchmarking.result import GridPoint
from onnxheadprune.model.spelling import accuracy as spelled
from onnxheadprune.reporting.console import heading, row, table
from onnxheadprune.reporting.pictures import save_figure
from onnxheadprune.workflow.curve import Curve, gone_words, recovery_words

if TYPE_CHECKING:
    from onnxheadprune.reporting.pictures.curve import Against

PICTURE_MARK, JSON_MARK = "onnxheadprune sweep", '"drift_unit"'
"""What the two files of a curve hold near their start."""


def curve_files(output: Path) -> tuple[Path, Path]:
    """The JSON and the picture of a curve: one is named, the other is beside it."""
    if output.suffix.lower() == ".json":
        return output, output.with_suffix(".png")
    return output.with_suffix(".json"), output


def curve_table(document: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The columns and the rows of a curve as `sweep --json` prints it, a row per cut; the last column marks the knee.

    A size of inputs at which no difference in speed was measurable has an "=".
    """
    counted, sizes = document["ratio_of"], speed_sizes(document)
    by_share, several = counted != "heads", len(sizes) > 1
    columns = ("asked", *([counted] if by_share else []), "removed", "drift", "accuracy", "speed")
    rows = []
    for position, point in enumerate(document["points"]):
        accuracy, speedup, speed = point["accuracy"], point["speedup"], point["speed"]
        found = [_measured(cell) for cell in speed["at"]] if speed else [""] * len(sizes)
        rows.append(
            (
                f"{point['ratio']:.0%}",
                *([f"-{curve_share(document, point):.1%}"] if by_share else []),
                gone_words(counted, document["heads"], point["removed"], point["units"]),
                f"{point['drift']:.3g}",
                "" if accuracy is None else spelled(accuracy),
                "" if speedup is None else f"{speedup:.2f}x",
                *(found if several else []),
                "knee" if position == document["knee"] else "",
            )
        )
    return (*columns, *(sizes if several else []), "remark"), rows


def _measured(cell: Mapping[str, Any]) -> str:
    return ("= " if cell["verdict"] == NO_DIFFERENCE else "") + f"{cell['speedup']:.2f}x"


def curve_share(document: Mapping[str, Any], point: Mapping[str, Any]) -> float:
    """Return what a cut takes of what ratios are shares of."""
    share = point["share"]
    return float(point["removed"] / max(document["heads"], 1) if share is None else share)


def speed_sizes(document: Mapping[str, Any]) -> list[str]:
    """The sizes of inputs that the speed of a curve's cuts was measured at."""
    speed = next((point["speed"] for point in document["points"] if point["speed"]), None)
    return [] if speed is None else [GridPoint(**cell["point"]).label for cell in speed["at"]]


def curve_facts(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the meaning of each column of a curve, with its name."""
    if document["ratio_of"] != "heads":
        yield "asked", f"shares of the {document['ratio_of']} of all blocks that can lose units"
    yield "drift", f"{document['drift_unit']} on {document['measured_on']}"
    if any(point["accuracy"] is not None for point in document["points"]):
        yield "accuracy", f"on {document['measured_on']}"
    recovered = recovery_words(document["points"])
    if recovered is not None:
        yield "recovered", recovered
    speed = next((point["speed"] for point in document["points"] if point["speed"]), None)
    if speed is not None:
        where = f"{'; '.join(speed_sizes(document))}, on {speed['provider']}, without refitted weights"
        yield "speed", f"the least over {where}; what is no measurable difference (=) counts as 1 at most"


def curve_rows(curve: Curve) -> Iterator[RenderableType]:
    """The table of a curve, and what its columns are."""
    document = curve.to_dict()
    columns, rows = curve_table(document)
    yield heading(f"{curve.model}: what cuts cost")
    yield ""
    made = table(*columns, numeric=columns[:-1])
    for cells in rows:
        made.add_row(*cells)
    yield made
    yield ""
    for name, words in curve_facts(document):
        yield row(name, words)


def save_curve(curve: Curve, path: Path, x: Against | None = None) -> None:
    """Draw drift, accuracy and speed.

    Args:
        curve: what a sweep found.
        path: a .png, .svg or .pdf file.
        x: what they are drawn against; None for what ratios are shares of.

    Raises:
        UsageError: if the file is none of these or cannot be written, or `x` was not measured.
    """
    # Matplotlib takes longer to load than many a model.
    from onnxheadprune.reporting.pictures.curve import plot_curve

    save_figure(plot_curve(curve, x), path, PICTURE_MARK)
