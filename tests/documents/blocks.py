"""Blocks of code in a Markdown page, and what each of them says about itself.

A block is `sh` or `python`, and runs in a folder that all blocks of its page share. What it prints stands below it:
in a block `text title="prints"`, or in a comment `<!-- prints ... -->` where readers need not see it; "..." stands
for anything. Notes for tests are comments in the line above a block, which readers do not see:

    <!-- not run: REASON -->        needs what a test lacks; its options are checked all the same
    <!-- slow: REASON -->           runs with the tests marked `slow`, and so must what needs its files
    <!-- run by FILE -->            FILE runs it: a test that reads the page, or a script that has these very lines
    python title="FILE"             an excerpt: these lines stand in that file of the repository
    text, json, js, math            not ours: a drawing, a formula, the text of a file, a line of another language
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.conftest import ROOT

PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
LANGUAGES = ("sh", "python", "text", "json", "js", "math")
TITLE = re.compile(r'\btitle="([^"]*)"')
COMMENT = re.compile(r"<!-- prints\n(.*?)\n?-->\s*", re.DOTALL)
NOTE = re.compile(r"<!-- ((?:not run: |run by |slow: ).+) -->\s*\Z")
PRINTS, NOT_RUN, RUN_BY, SLOW = "prints", "not run: ", "run by ", "slow: "


@dataclass(frozen=True)
class Block:
    """One block of code.

    Attributes:
        page: the file that it stands in.
        line: where it starts there, from 1.
        language: the first word behind the fence, "" if there is none.
        title: what readers see above it, "" if nothing.
        note: what tests are told about it, "" if nothing.
        code: its text.
        prints: what it has to print; "" is nothing.
    """

    page: Path
    line: int
    language: str
    title: str
    note: str
    code: str
    prints: str

    @property
    def place(self) -> str:
        """Where it stands, as editors take it."""
        return f"{self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page}:{self.line}"

    @property
    def is_code(self) -> bool:
        """Whether it is something that could run here."""
        return self.language in ("sh", "python")

    @property
    def excerpt_of(self) -> str | None:
        """The file of the repository that it is taken from, if it is."""
        return self.title or None

    @property
    def not_run(self) -> str | None:
        """The reason why it cannot run in a test, if it cannot."""
        return self.note.removeprefix(NOT_RUN) if self.note.startswith(NOT_RUN) else None

    @property
    def run_by(self) -> str | None:
        """The test that runs it in place of ours, if there is one."""
        return self.note.removeprefix(RUN_BY) if self.note.startswith(RUN_BY) else None

    @property
    def runs(self) -> bool:
        """Whether it is code that a test can run."""
        return self.is_code and self.not_run is None and self.run_by is None and self.excerpt_of is None

    @property
    def is_slow(self) -> bool:
        """True if it runs only with `--all`."""
        return self.note.startswith(SLOW)


@cache
def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page but those that are the output of another."""
    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    return list(_blocks(page, tokens))


def runnable(page: Path, *, slow: bool) -> list[Block]:
    """The blocks of a page that a test runs, in their order: all, or those that are not slow."""
    return [block for block in blocks_of(page) if block.runs and (slow or not block.is_slow)]


def _blocks(page: Path, tokens: Sequence[Token]) -> Iterator[Block]:
    for number, token in enumerate(tokens):
        if token.type != "fence":
            continue
        language, _, rest = token.info.strip().partition(" ")
        title = found[1] if (found := TITLE.search(rest)) else ""
        if title == PRINTS:
            continue
        follows = tokens[number + 1] if number + 1 < len(tokens) else None
        line = 1 + (token.map or [0])[0]
        yield Block(page, line, language, title, _note(tokens[:number]), token.content, _printed(follows))


def _note(before: Sequence[Token]) -> str:
    """The comment for tests that stands right above a block."""
    noted = NOTE.search(before[-1].content) if before and before[-1].type == "html_block" else None
    return noted[1] if noted else ""


def _printed(token: Token | None) -> str:
    """What stands below a block as its output."""
    if token is not None and token.type == "fence" and f'title="{PRINTS}"' in token.info:
        return token.content
    if token is not None and token.type == "html_block" and (found := COMMENT.fullmatch(token.content)):
        return found[1]
    return ""
