"""Figures in the documents: each has a run that makes it again or a reason why not, and one that is off is seen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.figures import (
    Figure,
    Finding,
    Registry,
    RegistryError,
    compared,
    figures_of,
    read_registry,
    tables_of,
    tables_with_figures,
    value_at,
)
from tests.conftest import ROOT

REGISTRY = read_registry()
DOCUMENTS = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), ROOT / "sample_models" / "README.md"])
PAGE = """# A page

| heads | accuracy | file |
|---|---|---|
| 4 | **98.7 %** | 1,544 kB |
| 8 | 96.2 % | 511 kB |

```
# no heading
```

It takes
3.24 times as long, and a forward pass takes 0.2 s.
"""
TABLE = {
    "document": "page.md",
    "section": "A page",
    "run": "it",
    "table": "heads",
    "columns": [
        {"column": "accuracy", "key": ["rows", {"heads": "{0}"}, "accuracy"], "scale": 100},
        {"column": "file", "key": ["rows", {"heads": "{0:n}"}, "kilobytes"]},
    ],
}
SENTENCE = {
    "document": "page.md",
    "section": "A page",
    "run": "it",
    "sentence": "It takes {} times",
    "key": ["ratio"],
}
RESULT = {
    "rows": [
        {"heads": 4, "accuracy": 0.9871, "kilobytes": 1540},
        {"heads": 8, "accuracy": 0.85, "kilobytes": 511},
    ],
    "ratio": 3.6,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "page.md").write_text(PAGE, encoding="utf-8")
    return tmp_path


def registry(*entries: Any) -> Registry:
    return Registry({"it": REGISTRY.runs["digits"]}, entries, ())


def figure(text: str, **judged: Any) -> Figure:
    return Figure("somewhere", text, "it", ("value",), **judged)


def test_every_figure_of_the_registry_is_in_its_document() -> None:
    figures = figures_of(REGISTRY)
    assert {item.run for item in figures} == set(REGISTRY.runs)
    assert all((ROOT / "benchmarks" / run.command[0]).is_file() for run in REGISTRY.runs.values())


def test_every_table_with_figures_has_a_run_or_a_reason() -> None:
    told = {
        (item["document"], item.get("section", ""), item["table"])
        for item in REGISTRY.entries
        if "table" in item
    }
    others = {(item["document"], item["section"], item["table"]) for item in REGISTRY.others}
    found = {
        (str(path.relative_to(ROOT)), *table)
        for path in DOCUMENTS
        for table in tables_with_figures(path.read_text(encoding="utf-8"))
    }
    assert found - told - others == set()
    assert not told & others and all(item["why"] for item in REGISTRY.others)
    every = {
        (str(path.relative_to(ROOT)), rows[0][0])
        for path in DOCUMENTS
        for rows in tables_of(path.read_text(encoding="utf-8"))
    }
    assert {(document, table) for document, _, table in others} <= every, "a reason without its table"


def test_figures_are_read_from_the_document(folder: Path) -> None:
    figures = figures_of(registry(TABLE, SENTENCE), folder)
    assert [item.text for item in figures] == ["98.7", "96.2", "1,544", "511", "3.24"]
    assert figures[2].stated == 1544 and figures[2].key == ("rows", {"heads": "4"}, "kilobytes")
    assert list(tables_with_figures(PAGE)) == [("A page", "heads")]


def test_what_is_off_by_more_than_a_tenth_is_seen(folder: Path) -> None:
    found = compared(figures_of(registry(TABLE, SENTENCE), folder), {"it": RESULT})
    assert [item.verdict for item in found] == ["agrees", "off", "agrees", "agrees", "off"]
    (folder / "page.md").write_text(PAGE.replace("96.2", "86.2").replace("3.24", "3.51"), encoding="utf-8")
    found = compared(figures_of(registry(TABLE, SENTENCE), folder), {"it": RESULT})
    assert {item.verdict for item in found} == {"agrees"}


@pytest.mark.parametrize(
    ("written", "measured", "verdict"),
    [
        (figure("1.00"), 1.10, "agrees"),
        (figure("1.00"), 1.11, "off"),
        (figure("1.00"), 0.89, "off"),
        (figure("0"), 0.4, "agrees"),
        (figure("0"), 0.6, "off"),
        (figure("0.968", whole=1), 0.9710, "agrees"),
        (figure("0.968", whole=1), 0.9640, "off"),
        (figure("98.89", whole=100), 98.67, "off"),
        (figure("98.89", whole=100, slack=0.45), 98.67, "agrees"),
        (figure("9.35", seconds=True), 20.0, "seconds"),
        (figure("1.0"), None, "not measured"),
    ],
)
def test_verdicts(written: Figure, measured: float | None, verdict: str) -> None:
    assert Finding(written, measured).verdict == verdict


def test_numbers_are_found_in_results() -> None:
    assert value_at(RESULT, ("rows", {"heads": "8"}, "kilobytes")) == 511
    for missing in (("rows", {"heads": "9"}, "kilobytes"), ("nothing",), ("rows",), ("ratio", "deeper")):
        assert value_at(RESULT, missing) is None


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({**TABLE, "section": "Another"}, "has no section 'Another'"),
        ({**TABLE, "table": "units"}, "no table begins with a column 'units'"),
        ({**TABLE, "rows": ["4", "5"]}, "the table has no row 5"),
        ({**TABLE, "columns": [{"column": "speed", "key": ["x"]}]}, "the table has no column 'speed'"),
        ({**TABLE, "columns": [{"column": "file", "part": 1, "key": ["x"]}]}, "there is no figure at '4'"),
        ({**SENTENCE, "sentence": "It takes {} hours"}, "there is no 'It takes {} hours'"),
        ({**SENTENCE, "run": "that"}, "there is no run 'that'"),
    ],
)
def test_what_is_not_in_a_document_is_said(entry: Any, sentence: str, folder: Path) -> None:
    with pytest.raises(RegistryError, match=sentence):
        figures_of(registry(entry), folder)


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.05, 0), (1.2, 1)])
def test_the_command_ends_with_one_where_a_figure_is_off(factor: float, code: int, tmp_path: Path) -> None:
    stated = [item for item in figures_of(REGISTRY) if item.run == "planning"]
    rows: dict[str, dict[str, Any]] = {}
    for item in stated:
        _, entry, name = item.key
        assert isinstance(entry, dict) and isinstance(name, str)
        rows.setdefault(entry["layers"], {"layers": entry["layers"]})[name] = item.stated * factor
    (tmp_path / "planning.json").write_text(json.dumps({"rows": list(rows.values())}), encoding="utf-8")
    command = [sys.executable, ROOT / "benchmarks" / "all.py", "--from", tmp_path, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    verdicts = [item["verdict"] for item in json.loads(done.stdout)]
    assert len(verdicts) == len(stated) and verdicts.count("seconds") == 2 * len(rows)
    assert verdicts.count("off") == code * len(rows)


def test_documents_name_the_script_of_their_figures() -> None:
    for entry in REGISTRY.entries:
        text = (ROOT / entry["document"]).read_text(encoding="utf-8")
        script = REGISTRY.runs[entry["run"]].command[0]
        assert script in text or not entry["document"].startswith("docs/") or "list" in entry, entry[
            "document"
        ]
