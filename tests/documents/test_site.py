"""The site builds, strictly: every link and anchor leads somewhere, and what is read from the code is on its pages."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

import onnxheadprune
from onnxheadprune.cli.program import group
from tests.conftest import ROOT

pytestmark = pytest.mark.site
PARTS = ("docs", "onnxheadprune", "sample_models", "tests", "tools")
LOADED = re.compile(r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="(https?:[^"]+)"')


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Runs mkdocs as the README and CI do."""
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout to spoil."""
    root = tmp_path / "copy"
    for part in PARTS:
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("mkdocs.yml", *(path.name for path in ROOT.glob("*.md"))):
        shutil.copyfile(ROOT / file, root / file)
    return root


@pytest.mark.parametrize("name", sorted(group.commands))
def test_every_command_and_option_has_its_place(site: Path, name: str) -> None:
    command = group.commands[name]
    page = (site / "commands" / name / "index.html").read_text(encoding="utf-8")
    options = [item for item in command.params if isinstance(item, click.Option)]
    rows = {item.opts[-1]: f'<tr id="{item.opts[-1].removeprefix("--")}">' in page for item in options}
    assert rows == {item.opts[-1]: not item.hidden for item in options}


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (site / "api").rglob("*.html"))
    names = [name for name in onnxheadprune.__all__ if not name.startswith("_")]
    assert [name for name in names if f'id="onnxheadprune.{name}"' not in pages] == []


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    assert [
        (page.name, url) for page in pages for url in LOADED.findall(page.read_text(encoding="utf-8"))
    ] == []


def test_every_column_of_a_table_has_a_name(site: Path) -> None:
    pages = [
        page
        for page in site.rglob("*.html")
        if re.search(r"<th[^>]*></th>", page.read_text(encoding="utf-8"))
    ]
    assert [page.parent.name for page in pages] == []


def test_links_to_nothing_are_noticed(copy: Path) -> None:
    links = ("nowhere.md", "proof.md#no-heading", "../tools/nothing", "commands/prune.md#no-option")
    page = copy / "docs" / "units.md"
    lines = "\n".join(f"[there]({link})" for link in links)
    page.write_text(f"{page.read_text(encoding='utf-8')}\n{lines}\n", encoding="utf-8")
    done = build(copy, copy / "site")
    assert done.returncode == 1
    assert [link for link in links if link not in done.stderr] == []


def test_links_to_options_and_to_files_outside_of_docs_work(copy: Path) -> None:
    page = copy / "docs" / "units.md"
    links = "[option](commands/prune.md#max-drift), [script](../tools/release), [page](../CONTRIBUTING.md)"
    page.write_text(f"{page.read_text(encoding='utf-8')}\n{links}\n", encoding="utf-8")
    done = build(copy, copy / "site")
    assert done.returncode == 0, done.stderr
    shown = (copy / "site" / "units" / "index.html").read_text(encoding="utf-8")
    places = re.findall(r'href="([^"]+)">(?:option|script|page)<', shown)
    assert len(places) == 3
    for place in places:
        found = copy / "site" / "units" / place.partition("#")[0]
        assert (found / "index.html" if place.partition("#")[0].endswith("/") else found).is_file()


@pytest.mark.parametrize(
    ("word", "page"),
    [
        ("mlp", "units/"),
        ("llm", "large-models/"),
        ("distillation", "recovering/"),
        ("sparsity", "choosing/"),
        ("amount", "choosing/"),
        ("device", "measuring/"),
    ],
)
def test_search_finds_the_words_of_the_field(site: Path, word: str, page: str) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    # The search knows stems, so the plural is a hit as well.
    hits = [item for item in index if re.search(rf"\b{word}s?\b", f"{item['title']} {item['text']}".lower())]
    assert page in {item["location"].partition("#")[0] for item in hits}


CONTRIBUTORS = ("decisions/", "repository/tests/", "architecture/", "extending/")


@pytest.mark.skipif(shutil.which("node") is None, reason="the theme's search runs in JavaScript")
def test_search_lists_guides_first(site: Path) -> None:
    """As the theme's own worker answers on the built index: what users ask for leads to pages for users."""
    expected = {
        "undo": "getting-started/",
        "jupyter": "getting-started/",
        "license": "",
        "changelog": "changelog/",
        "exit code": "pipelines/",
        "labels": "getting-started/",
        "windows": "getting-started/",
        "distillation": "recovering/",
        "quantization": "quantization/",
    }
    call = ["node", str(ROOT / "tests" / "documents" / "search.mjs"), str(site), *expected]
    answer = subprocess.run(call, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(answer.stdout)
    assert {word: pages[0] for word, pages in found.items()} == expected
    for word, pages in found.items():
        assert not any(page.startswith(CONTRIBUTORS) for page in pages[:3]), word


def test_the_repository_is_linked_where_it_is_known(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXHEADPRUNE_REPOSITORY", "https://example.org/somebody/onnxheadprune")
    assert build(copy, copy / "site").returncode == 0
    page = (copy / "site" / "index.html").read_text(encoding="utf-8")
    assert 'href="https://example.org/somebody/onnxheadprune"' in page


def test_pages_of_long_tables_begin_with_a_summary_and_a_filter(site: Path) -> None:
    page = (site / "supported-graphs" / "index.html").read_text(encoding="utf-8")
    summary, table = page.index('<label class="filter">'), page.index("<details")
    assert summary < table and page.count("<table>", 0, summary) == 1
