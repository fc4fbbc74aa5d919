"""Each promise about files names a test that there is."""

from __future__ import annotations

import re

from tests.conftest import ROOT


def test_the_tests_of_the_promises_exist() -> None:
    text = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    section = text.split("\n## Files\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`([\w/]*\.py)?(?:::(\w+))?`", row.rsplit(" | ", 1)[1])
        assert named, row
        file = ""
        for given, test in named:
            file = given or file
            path = ROOT / file if "/" in file else ROOT / "tests" / "files" / file
            assert not test or f"def {test}(" in path.read_text(encoding="utf-8"), (row, test)
