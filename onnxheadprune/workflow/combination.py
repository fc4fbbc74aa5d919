"""Facts of `combine`, from the document that it prints with `--json`."""

from __future__ import annotations

from pathlib import PurePath

from onnxheadprune.benchmarking.summary import label_of
from onnxheadprune.model.documents import Document
from onnxheadprune.model.facts import Fact, Facts, Table
from onnxheadprune.model.spelling import accuracy, rounded


def combination_facts(document: Document) -> Facts:
    """The better order with its reason, the models side by side, and what qualifies them."""
    corners = document["corners"]
    columns = ["model", "file", "speed-up", f"drift ({corners[0]['drift_unit']})"]
    extra = [name for name in ("accuracy", "metric") if any(item[name] for item in corners)]
    rows = []
    for item in corners:
        cells = [
            item["name"],
            rounded(item["file_bytes"], "B"),
            f"{item['speedup']:.2f}x",
            f"{item['drift']:.3g}",
        ]
        for name in extra:
            spell = accuracy if name == "accuracy" else "{:.4g}".format
            cells.append(spell(item[name]["pruned"]) if item[name] else "")
        rows.append(tuple(cells))
    columns += extra
    table = Table(tuple(columns), tuple(rows), columns[1:])
    sizes = dict.fromkeys(label_of(cell["point"]) for cell in document["benchmark"]["cells"])
    outputs = f"{' and '.join(('drift', *extra))} on {corners[0]['measured_on']}, as a deployment runs both"
    remarks = [f"{name} cannot be had: {reason}" for name, reason in document["refused"].items()]
    return Facts(
        document.get("output") or PurePath(document["original"]).name,
        f"recommended: {document['recommended']}, {document['reason']}",
        "open",
        (
            table,
            Fact("quantized", f"to {document['quantization']['to']}"),
            Fact("measured", f"speed at {'; '.join(sizes)}, models in turn; {outputs}"),
            *(Fact("note", text, "doubtful") for text in (*remarks, *document["notes"])),
        ),
    )
