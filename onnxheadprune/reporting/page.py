"""Results as one self-contained HTML page: their facts, with the plots drawn, and how to repeat them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import starmap
from pathlib import Path
from typing import Any, NamedTuple

from onnxheadprune.display.facts import Fact, Facts, Part, Plot
from onnxheadprune.display.html import HtmlWriter, text_of
from onnxheadprune.display.spelling import file_name, many
from onnxheadprune.errors import UsageError
from onnxheadprune.model.documents import json_of, read_text
from onnxheadprune.model.storage.writing import write_text
from onnxheadprune.model.typed_json import FieldError, read_document
from onnxheadprune.settings.words import option, spelled_by

MAX_RESULT = 2**26
"""Bytes of a document; a thousand sites with all their scores take a quarter of it."""


class Result(NamedTuple):
    """The facts of one result on a page."""

    facts: Facts
    run: Mapping[str, Any] = {}  # how it was made: "command", "folder", "date", "versions" and "machine"


def results_in(path: Path) -> Iterator[Result]:
    """Yield the results in a document that a command printed with --json.

    Raises:
        UsageError: if the file cannot be read, or is none.
    """
    where = f"the result {path}"
    found = list(results_of(json_of(read_text(path, "the result", MAX_RESULT), where), where))
    if not found:
        raise UsageError(f"{where} is no result; save one with --json > FILE (plans and scores have no page)")
    yield from found


def results_of(document: Any, where: str) -> Iterator[Result]:
    """Yield the results that a document holds; a plan and scores, which are read back, hold none."""
    if not isinstance(document, Mapping):
        return
    if "facts" not in document:
        # Of two folders that are compared each pair of files has its own.
        for item in document["files"] if isinstance(document.get("files"), list) else ():
            yield from results_of(item, where)
        return
    run = document.get("run")
    try:
        facts = read_document(Facts, document["facts"])
    except FieldError as error:
        raise UsageError(
            f"{where} is not as this version writes it ({error}); make it once more with --json"
        ) from error
    yield Result(facts, run if isinstance(run, Mapping) else {})


def save_page(path: Path, results: Sequence[Result]) -> None:
    """Write the page of some results."""
    write_text(path, page_of(results))


def page_of(results: Sequence[Result]) -> str:
    """The page of some results, of several with a list of their answers first."""
    results = [result._replace(facts=spelled_by(option, result.facts)) for result in results]
    title = file_name(results[0].facts.title) if len(results) == 1 else many(len(results), "result")
    links = "".join(starmap(_link, enumerate(results))) if len(results) > 1 else ""
    style = files("onnxheadprune.reporting").joinpath("page.css").read_text(encoding="utf-8")
    body = "".join(_section(index, result) for index, result in enumerate(results))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="onnxheadprune">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{text_of(title)} - onnxheadprune</title>
<style>{style}</style>
</head>
<body>
<header><h1>onnxheadprune report</h1><ul>{links}</ul></header>
<main>{body}</main>
<footer><p>This page loads nothing and runs nothing: it can be mailed, archived and printed.</p></footer>
</body>
</html>
"""


def _link(index: int, result: Result) -> str:
    facts = result.facts
    answer = f'<span class="{facts.state}">{text_of(facts.answer)}</span>'
    return f'<li><a href="#result{index}">{text_of(facts.title)}</a> {answer}</li>'


def _section(index: int, result: Result) -> str:
    facts, write = result.facts, HtmlWriter(draw=_drawing())
    details = tuple(part for part in facts.details if part not in facts.parts)
    answer = f'<p class="answer {facts.state}">{text_of(facts.answer)}</p>' if facts.answer else ""
    parts = f"<h2>{text_of(facts.title)}</h2>{answer}{write.parts(facts.parts)}"
    more = f"<h3>Details</h3>{write.parts(details)}" if details else ""
    repeated = tuple(_repeated(result.run))
    how = f"<h3>How to repeat it</h3>{write.parts(repeated)}" if repeated else ""
    return f'<section id="result{index}" class="{facts.state}">{parts}{more}{how}</section>'


def _drawing() -> Callable[[Plot], str]:
    """The drawing of plots; without matplotlib tables have to say what they show."""
    if importlib.util.find_spec("matplotlib") is None:
        return lambda _: ""
    # Matplotlib takes longer to load than many a model.
    from onnxheadprune.reporting.pictures.draw import svg_of

    return lambda plot: f'<div class="scroll" tabindex="0">{svg_of(plot)}</div>'


def _repeated(run: Mapping[str, Any]) -> Iterator[Part]:
    """The command, the folder, the date, the versions and the machine, as far as a document has them."""
    return (Fact(str(name), words) for name, value in run.items() if (words := _words(value)))


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        known = ((str(name), _words(item)) for name, item in value.items())
        return ", ".join(f"{name} {words}" for name, words in known if words)
    if isinstance(value, list):
        return "; ".join(map(_words, value))
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
