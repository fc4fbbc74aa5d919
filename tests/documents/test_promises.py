"""Each promise names tests that there are: promises.toml has them, since readers of the page have no use for them."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
TESTS: dict[str, dict[str, list[str]]] = tomllib.loads((ROOT / "tests" / "promises.toml").read_text("utf-8"))


def promises(section: str) -> list[str]:
    """The first column of the tables of promises in a section of the page."""
    found, inside = [], False
    for line in PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0].splitlines():
        inside = line.startswith("| promise |") or (inside and line.startswith("|"))
        if inside and not line.startswith(("| promise |", "|---")):
            found.append(re.split(r"(?<!\\) \| ", line[2:])[0])
    return found


def test_no_section_is_left_out() -> None:
    parts = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert [part.partition("\n")[0] for part in parts if "| promise |" in part] == list(TESTS)


@pytest.mark.parametrize("section", TESTS)
def test_every_promise_names_its_tests(section: str) -> None:
    assert promises(section) == list(TESTS[section])
    assert all(TESTS[section].values())


@pytest.mark.parametrize("section", TESTS)
def test_the_tests_of_the_promises_exist(section: str) -> None:
    for named in (name for names in TESTS[section].values() for name in names):
        path, _, test = named.partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert not test or f"def {test.partition('[')[0]}(" in text, named
