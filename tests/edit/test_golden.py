"""Golden files: what pruning does to small telling graphs, as text that a person can read; see `tests/golden`.

`pytest tests/edit/test_golden.py --update-golden` writes the answers anew;
read the difference before it is committed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxheadprune import plan_pruning, validate
from tests.edit.golden_file import answered, read
from tests.graph_text import model_of, text_of
from tests.graphs.toys import get_initializer

FOLDER = Path(__file__).parents[1] / "golden"
FILES = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden(path: Path, update_golden: bool) -> None:
    """The plan and the pruned graph are those of the file, and the pruned graph equals the masked one."""
    golden = read(path)
    text, pruned = answered(golden)
    if pruned is not None:
        proof = validate(golden.model, pruned, provider="cpu")
        assert proof.verdict == "passed", proof.reason
        plan = plan_pruning(golden.model, heads=golden.heads, **golden.flags)
        assert proof.heads == {cut.number: cut.removed for cut in plan.cuts if cut.removed}
    if update_golden:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_printed_is_read_again(path: Path) -> None:
    """Both graphs of a file are the whole truth about them, but for the values of weights."""
    text = path.read_text(encoding="utf-8")
    for graph in [
        part.partition("\n")[2] for part in text.split("\n== ") if part.startswith(("before", "after"))
    ]:
        assert text_of(model_of(graph)).strip() == graph.strip()


def test_another_head_is_another_text(tmp_path: Path) -> None:
    """So a file cannot hold what is not asked."""
    text = (FOLDER / "plain.txt").read_text(encoding="utf-8")
    copy = tmp_path / "plain.txt"
    copy.write_text(text.replace("heads: 0:1", "heads: 0:2"), encoding="utf-8")
    assert answered(read(copy))[0] != copy.read_text(encoding="utf-8")


def test_a_weight_depends_on_its_name_and_the_seed_alone() -> None:
    text = '<ir_version: 9, opset_import: ["": 17]> g (float[2] x) => (float[2] y) <float[2] a, float[2] b> {{{0}}}'
    one = model_of(text.format("s = Add(x, a) y = Add(s, b)"))
    other = model_of(text.format("s = Add(x, b) y = Add(s, a)"))
    again = model_of(text.format("s = Add(x, a) y = Add(s, b)"), seed=1)
    a, b = (get_initializer(one, name).tolist() for name in "ab")
    assert a != b
    assert a == get_initializer(other, "a").tolist() != get_initializer(again, "a").tolist()
