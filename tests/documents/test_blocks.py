"""Every block of code in the README and in docs/ runs, and prints what the page says."""

from __future__ import annotations

import math
import re
import runpy
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest

from onnxheadprune.cli.program import group
from onnxheadprune.reporting import progress
from tests.conftest import ROOT
from tests.documents.blocks import LANGUAGES, PAGES, Block, blocks_of, runnable
from tests.documents.running import PROGRAM, WIDTH, Reader, lines_of

NOT_RUN = {
    "installs packages",
    "downloads models",
    "needs a library of kernels",
    "stands for a folder of yours",
    "stands for files of yours",
    "needs a GPU",
    "needs polygraphy",
}
"""Why a block may stay without being run."""

CI = ROOT / "tools" / "readme"
"""Runs blocks that install the package, as they are printed."""
FIRST = [ROOT / "README.md", ROOT / "docs" / "getting-started.md"]
"""Pages that everybody reads."""
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
EXCERPTS = [block for block in BLOCKS if block.excerpt_of]
ELSEWHERE = [block for block in BLOCKS if block.run_by]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Reader:
    """Somebody with the sample models, and a terminal of a hundred columns."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setattr(progress, "QUIET_SECONDS", math.inf)

    return Reader(folder, capfd.readouterr)


@pytest.mark.first_case
@pytest.mark.parametrize("page", FIRST, ids=name_of)
def test_what_the_first_pages_show_happens(page: Path, reader: Reader) -> None:
    for block in runnable(page, slow=False):
        reader.check(block)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page, slow=True)], ids=name_of)
def test_what_a_page_shows_happens(page: Path, reader: Reader) -> None:
    for block in runnable(page, slow=True):
        reader.check(block)


def test_every_block_says_what_it_is() -> None:
    assert [block.place for block in BLOCKS if block.language not in LANGUAGES] == []


def test_what_is_not_run_says_why() -> None:
    assert {block.not_run for block in BLOCKS} - {None} == NOT_RUN


@pytest.mark.parametrize("block", ELSEWHERE, ids=lambda block: block.place)
def test_what_a_test_of_its_own_runs_is_read_there(block: Block) -> None:
    text = (ROOT / str(block.run_by)).read_text(encoding="utf-8")
    assert block.page.name in text


def test_all_commands_of_the_readme_run_in_environments_that_they_make() -> None:
    """Sentences install nothing: what they name would be in no environment that is tried."""
    page = ROOT / "README.md"
    shell = [block for block in blocks_of(page) if block.language == "sh"]
    of_the_clone = [block.code for block in shell if block.runs or block.run_by == "tools/readme"]
    assert list(runpy.run_path(str(CI))["commands"]()) == of_the_clone
    everything = page.read_text(encoding="utf-8")
    assert everything.count("pip install -e") == sum(code.count("pip install -e") for code in of_the_clone)


@pytest.mark.parametrize(
    "block", [block for block in ELSEWHERE if block.prints], ids=lambda block: block.place
)
def test_what_ci_runs_prints_what_the_page_says(block: Block, reader: Reader) -> None:
    """Its last command: what stands in front of that installs the package."""
    reader.check(replace(block, code=block.code.rpartition(".venv/bin/")[2]))


@pytest.mark.parametrize("block", EXCERPTS, ids=lambda block: block.place)
def test_an_excerpt_stands_in_its_file(block: Block) -> None:
    assert block.code in (ROOT / str(block.excerpt_of)).read_text(encoding="utf-8")


def unknown_options(block: Block) -> Iterator[str]:
    """What a block asks of our commands and they do not have."""
    for line in lines_of(block.code):
        for call in re.split(r"&&|\||;", line):
            words = shlex.split(call, comments=True)
            if not words or Path(words[0]).name != PROGRAM or len(words) < 2 or words[1].startswith("-"):
                continue
            command = group.commands.get(words[1], click.Command("none"))
            known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
            known |= {"-h", "--help", "--help-all"}
            yield from (
                f"{block.place}: {words[1]} {word}"
                for word in words[2:]
                if word.startswith("-") and word.partition("=")[0] not in known
            )


def test_options_in_what_cannot_run_exist() -> None:
    not_run = [block for block in BLOCKS if block.not_run is not None and block.language == "sh"]
    assert [line for block in not_run for line in unknown_options(block)] == []
