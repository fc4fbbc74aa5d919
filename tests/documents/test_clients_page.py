"""The script that runs clients and writes docs/clients.md, as far as it works without them."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import ROOT

CLIENTS = ROOT / "tests" / "clients"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What `tests/clients/all` defines; its neighbours are forgotten again."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(CLIENTS))
    yield runpy.run_path(str(CLIENTS / "all"))
    for name in set(sys.modules) - before:
        del sys.modules[name]


def rows(script: dict[str, Any], *items: tuple[str, str, str]) -> dict[tuple[str, str], str]:
    return {
        (client, case): script["_row"]({"client": client, "case": case, "ran": ran, "followed": []})
        for client, case, ran in items
    }


def test_versions_are_no_difference(script: dict[str, Any]) -> None:
    page = rows(script, ("web 1.30.0 (wasm in Chromium 156.0.8078.108)", "BERT", "outputs"))
    ran = rows(script, ("web 2.0.0rc1+cpu (wasm in Chromium 157.0)", "BERT", "outputs"))
    assert list(script["_differences"](ran, page)) == []


def test_the_page_must_say_what_ran_and_nothing_else_of_these_clients(script: dict[str, Any]) -> None:
    page = rows(
        script, ("web 1", "BERT", "outputs"), ("web 1", "GPT", "outputs"), ("node 1", "GPT", "outputs")
    )
    ran = rows(script, ("web 1", "BERT", "embed()"), ("web 1", "ViT", "outputs"))
    found = list(script["_differences"](ran, page))
    assert [(line.split(":")[0], line.split("|")[2].strip()) for line in found] == [
        ("docs/clients.md does not say", "BERT"),
        ("docs/clients.md does not say", "ViT"),
        ("docs/clients.md says, and it did not run", "BERT"),
        ("docs/clients.md says, and it did not run", "GPT"),
    ]


def test_the_page_has_rows_of_every_client(script: dict[str, Any]) -> None:
    first = {client.split()[0] for (client, _), _ in script["_known"]()}
    names = {
        "fastembed": "FastEmbed",
        "genai": "onnxruntime-genai",
        "olive": "Olive",
        "onnxruntime-js": "onnxruntime-node",
        "optimum": "Optimum",
        "runtimes": "OpenVINO",
        "sentence-transformers": "sentence-transformers",
        "transformers-js": "transformers.js",
    }
    assert names.keys() == script["CLIENTS"].keys()
    assert set(names.values()) <= first


def test_ci_runs_clients_that_are_there(script: dict[str, Any]) -> None:
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    found = re.search(r'quick="(.*)"', text)
    assert found is not None and script["CLIENTS"].keys() >= set(found[1].split())
