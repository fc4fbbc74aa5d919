"""What a reduction leaves: a few nodes, which fail as the original does, and nothing that tells of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, numpy_helper

from onnxheadprune.attention.sites.find import find_sites
from onnxheadprune.cli import group
from onnxheadprune.cli.attempting import attempt
from onnxheadprune.cli.when import read_when
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.load import open_structure
from onnxheadprune.runtime.progress import silent
from onnxheadprune.workflow.reducing.ending import TIMEOUT, Ending
from onnxheadprune.workflow.reducing.line import Line, read_heads, shifted
from onnxheadprune.workflow.reducing.parts import nodes_of
from onnxheadprune.workflow.reducing.reduce import ReduceRequest, Reduction, anonymous_forms, reduce_model
from tests import toys
from tests.conftest import SAMPLES
from tests.reducing.models import SECRET, InProcess, numbers_of, stack


def reduced(
    model: ModelProto | Path, when: str, folder: Path, *, saying: str | None = None, seed: int = 0
) -> Reduction:
    path = model if isinstance(model, Path) else folder / f"{SECRET}.onnx"
    if isinstance(model, ModelProto):
        onnx.save(model, path)
    line, heads = read_when(when, group)
    request = ReduceRequest(line, heads, folder / "small.onnx", saying)
    return reduce_model(path, request, InProcess())


def operators(result: Reduction) -> list[str]:
    return [node.op_type for node in onnx.load(result.output).graph.node]


@pytest.fixture(scope="module")
def mixing(tmp_path_factory: pytest.TempPathFactory) -> Reduction:
    """Of a model with a block whose heads are mixed."""
    return reduced(stack(), "prune --heads 1:0", tmp_path_factory.mktemp("mixing"))


def test_a_site_that_is_refused(mixing: Reduction, tmp_path: Path) -> None:
    assert operators(mixing) == ["MatMul", "Transpose", "Reshape", "LayerNormalization", "MatMul"]
    assert mixing.command == "onnxheadprune prune small.onnx --heads 0:0 -o out.onnx"
    assert (mixing.ending.exit_code, mixing.ending.kind) == (3, "RefusedError")
    assert "LayerNormalization mixes values across heads" in mixing.ending.sentence
    assert mixing.confirmed and mixing.valid and not mixing.numbers and not mixing.stopped
    again = attempt(("prune", mixing.output, "--heads", "0:0", "-o", str(tmp_path / "out.onnx")))
    assert again.sentence == mixing.ending.sentence
    onnx.checker.check_model(mixing.output, full_check=True)
    assert mixing.elements[1] < 30 and mixing.nodes == (len(stack().graph.node), 5)


def test_nothing_of_the_original_survives(mixing: Reduction) -> None:
    written = Path(mixing.output).read_bytes()
    assert SECRET.encode() not in written.lower()
    assert SECRET not in str(mixing.to_dict() | {"model": "", "output": ""}).lower()
    made = onnx.load(mixing.output)
    assert not made.metadata_props and not made.producer_name and not made.doc_string and not made.domain
    assert not any(node.metadata_props or node.doc_string for node in made.graph.node)
    numbers = list(numbers_of(made))
    assert numbers and not {*numbers} & {*numbers_of(stack())}


@pytest.mark.long
def test_a_head_that_is_not_there(tmp_path: Path, digits: Path) -> None:
    result = reduced(digits, "prune --heads '1:3 2:0,99'", tmp_path)
    assert result.nodes[1] <= 5 and result.elements[1] < 100
    # A head that the original has is one that a small enough model has not.
    assert result.ending.exit_code == 2 and "has no head" in result.ending.sentence
    assert result.command in {
        f"onnxheadprune prune small.onnx --heads 0:{head} -o out.onnx" for head in (3, 99)
    }


def test_sites_by_their_names() -> None:
    loaded = open_structure(stack())
    names = [site.name for site in find_sites(loaded)]
    assert all(SECRET in name for name in names)
    assert read_heads(f"{names[2]}:0,3 {names[1]}:4 2:5 *:1", loaded) == (
        ("2", (0, 3, 5)),
        ("1", (4,)),
        ("*", (1,)),
    )
    assert read_heads(f"{SECRET}_unknown:0", loaded) == (("nowhere", (0,)),)
    assert read_heads(f"ffn.3:1 {names[1]}:*", loaded) == (("ffn.3", (1,)), ("1", ()))
    assert shifted((("ffn.3", (1,)), ("1", ()), ("*", (0,)))) == [(("ffn.2", (1,)), ("0", ()), ("*", (0,)))]
    with pytest.raises(UsageError, match="cannot read"):
        read_heads("no heads", loaded)


@pytest.mark.parametrize("when", ["inspect", "prune --heads 0:0"])
def test_a_near_miss(tmp_path: Path, when: str) -> None:
    """That there is no site could be shown with any model at all; that there nearly is one could not."""
    result = reduced(stack(1, mixing=None, projected=False), when, tmp_path)
    assert operators(result) == ["Softmax", "MatMul"]
    assert "no output projection sums up" in " ".join(result.ending.left_out)


def test_what_is_printed(tmp_path: Path) -> None:
    """What is no failure to the command may be one to its user."""
    result = reduced(stack(1, mixing=0), "inspect", tmp_path, saying="mixes values across heads")
    assert result.ending.exit_code == 0 and "LayerNormalization" in operators(result)
    assert result.nodes[1] <= 5


class Failing(InProcess):
    """A command that ends as a function of the model says."""

    def __init__(self, ending: Callable[[ModelProto], Ending]) -> None:
        super().__init__()
        self.ending = ending
        self.models: list[bytes] = []

    def run(self, arguments: tuple[str, ...]) -> Ending:
        self.models.append(Path(arguments[1]).read_bytes())
        return self.ending(onnx.load(arguments[1]))


def when_softmax_reads_mul(model: ModelProto) -> Ending:
    makers = {name: node for node in model.graph.node for name in node.output}
    found = any(
        node.op_type == "Softmax" and node.input[0] in makers and makers[node.input[0]].op_type == "Mul"
        for node in model.graph.node
    )
    return Ending(-11) if found else Ending(0)


def reduced_by(trier: InProcess, folder: Path, *, seed: int = 0, seconds: float = 600.0) -> Reduction:
    onnx.save(stack(2), folder / f"{SECRET}.onnx")
    line, _ = read_when("inspect", group)
    request = ReduceRequest(line, None, folder / "small.onnx", seconds=seconds, seed=seed)
    return reduce_model(folder / f"{SECRET}.onnx", request, trier)


def test_a_crash(tmp_path: Path) -> None:
    result = reduced_by(Failing(when_softmax_reads_mul), tmp_path)
    assert operators(result) == ["Mul", "Softmax"]
    assert result.ending.exit_code == -11


def test_what_takes_too_long(tmp_path: Path) -> None:
    slow = Failing(
        lambda model: Ending(TIMEOUT if any(n.op_type == "Softmax" for n in model.graph.node) else 0)
    )
    assert operators(reduced_by(slow, tmp_path)) == ["Softmax"]


BODIES = """<ir_version: 10, opset_import: ["" : 18]>
    graph (float[2, 4] x, bool c, int64 n) => (float[2, 4] y, float[2, 4] z)
    {
        a = Neg (x)
        y = If (c) <
            then_branch = t () => (float[2, 4] b) { b = Softmax (a) },
            else_branch = e () => (float[2, 4] d) { d = Relu (a) }
        >
        z = Loop (n, c, x) <
            body = l (int64 i, bool k, float[2, 4] s) => (bool o, float[2, 4] r)
            { o = Identity (k)  r = HardSwish (s) }
        >
    }"""


@pytest.mark.parametrize("inside", ["Softmax", "HardSwish"])
def test_what_is_in_a_body_comes_out(tmp_path: Path, inside: str) -> None:
    path = tmp_path / "a.onnx"
    onnx.save(onnx.parser.parse_model(BODIES), path)
    trier = Failing(lambda model: Ending(int(any(node.op_type == inside for node in nodes_of(model)))))
    result = reduce_model(path, ReduceRequest(Line("inspect"), None, tmp_path / "small.onnx"), trier)
    assert operators(result) == [inside]


def test_constants_without_a_tensor_are_hollow_too() -> None:
    """Their numbers are a user's as those of any other weight."""
    text = """<ir_version: 10, opset_import: ["" : 18]> graph (float[3] x) => (float[3] z)
    { y = Constant <value_floats = [0.3141592, 0.25, 0.5]> ()  z = Add (x, y) }"""
    loaded = open_structure(onnx.parser.parse_model(text))
    assert np.float32(0.3141592).tobytes() in loaded.proto.SerializeToString()
    for candidate in anonymous_forms(loaded):
        assert np.float32(0.3141592).tobytes() not in candidate.SerializeToString()


def test_the_last_trial_is_made_afresh(tmp_path: Path) -> None:
    """A failure that only a process shows that has seen much is told as one that comes and goes."""
    trier = Failing(lambda model: when_softmax_reads_mul(model) if not trier.renewed else Ending(0))
    result = reduced_by(trier, tmp_path)
    assert trier.renewed == 1 and not result.confirmed


def test_the_same_seed_gives_the_same_model(tmp_path: Path) -> None:
    def made(seed: int) -> tuple[bytes, list[bytes]]:
        trier = Failing(when_softmax_reads_mul)
        return Path(reduced_by(trier, tmp_path, seed=seed).output).read_bytes(), trier.models

    assert made(1) == made(1)
    assert made(1)[1][1] != made(2)[1][1]


class Interrupted(Failing):
    """Ctrl-C comes after some trials."""

    def __init__(self, after: int) -> None:
        super().__init__(when_softmax_reads_mul)
        self.after = after

    def run(self, arguments: tuple[str, ...]) -> Ending:
        if len(self.models) == self.after:
            self.after = -1
            raise KeyboardInterrupt
        return super().run(arguments)


def test_an_interrupt_keeps_the_best_so_far(tmp_path: Path) -> None:
    result = reduced_by(Interrupted(12), tmp_path)
    assert result.stopped == "interrupted" and result.confirmed
    assert SECRET.encode() not in Path(result.output).read_bytes()
    assert result.nodes[1] > 2


def test_an_interrupt_before_there_is_anything(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        reduced_by(Interrupted(1), tmp_path)
    assert not (tmp_path / "small.onnx").exists()


def test_the_budget_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trier = Failing(when_softmax_reads_mul)
    monkeypatch.setattr("time.monotonic", lambda: float(len(trier.models)))
    result = reduced_by(trier, tmp_path, seconds=6)
    assert result.stopped == "the time was up" and 2 < result.nodes[1] < result.nodes[0]
    assert len(trier.models) < 10


def test_no_budget_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trier = Failing(when_softmax_reads_mul)
    monkeypatch.setattr("time.monotonic", lambda: float(len(trier.models)))
    with pytest.raises(UsageError, match="a larger --budget"):
        reduced_by(trier, tmp_path, seconds=0.5)


def test_a_failure_of_one_number_keeps_it_and_tells(tmp_path: Path) -> None:
    def ending(model: ModelProto) -> Ending:
        return Ending(1 if any(abs(number - 0.3141592) < 1e-6 for number in numbers_of(model)) else 0)

    assert reduced_by(Failing(ending), tmp_path).numbers == 1


def test_failures_that_hang_on_what_must_go_are_refused(tmp_path: Path) -> None:
    weight = numpy_helper.to_array(stack(2).graph.initializer[2])
    on: dict[str, Callable[[ModelProto], bool]] = {
        "random weights": lambda model: any(
            np.array_equal(numpy_helper.to_array(tensor), weight) for tensor in model.graph.initializer
        ),
        "without the model's names": lambda model: SECRET in model.graph.node[0].output[0],
        "without the model's metadata": lambda model: bool(model.metadata_props),
        "in a copy of the model": lambda _: not next(answers),
    }
    for words, fails in on.items():
        answers = iter([False, *[True] * 20])
        with pytest.raises(RefusedError, match=f"the failure goes away .*{words}"):
            reduced_by(Failing(lambda model, fails=fails: Ending(int(fails(model)))), tmp_path)  # type: ignore[misc]


def test_a_bug_is_known_by_its_place(tmp_path: Path) -> None:
    onnx.save(stack(1), tmp_path / "a.onnx")

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxheadprune.attention.planning.resolve_units", broken)
        ending = attempt(("prune", str(tmp_path / "a.onnx"), "--heads", "0:0", "--dry-run"))
    assert (ending.exit_code, ending.kind) == (70, "ZeroDivisionError")
    assert ending.place == "attention/planning.py:_planned"


def test_nothing_fails(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="prune does not fail on this model"):
        reduced(stack(), "prune --heads 0:0", tmp_path)
    with pytest.raises(UsageError, match="does not print 'no such words'"):
        reduced(stack(), "inspect", tmp_path, saying="no such words")


def test_the_original_stays_and_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    onnx.save(stack(), path)
    before = path.read_bytes()
    line, heads = read_when("prune --heads 1:0", group)
    with pytest.raises(UsageError):
        reduce_model(path, ReduceRequest(line, heads, path), InProcess())
    assert path.read_bytes() == before


@pytest.mark.long
def test_an_export_with_computed_shapes(tmp_path: Path) -> None:
    """GPT-2, whose packed queries, keys and values are split."""
    model = SAMPLES / "tiny" / "gpt2-torchscript-sdpa.onnx"
    result = reduced(model, "prune --heads 1:0-99", tmp_path)
    assert result.nodes[1] <= 14 and result.confirmed


def test_models_that_are_not_valid_can_be_reduced(tmp_path: Path) -> None:
    model = toys.attention()
    model.graph.node.append(NodeProto(op_type="Transpose", input=["y"], output=["z"]))
    model.graph.node[-1].attribute.add(name="perm", type=onnx.AttributeProto.INTS, ints=[7, 8, 9])
    model.graph.output[0].name = "z"
    result = reduced(model, "prune --heads 0:0", tmp_path)
    assert not result.valid and result.nodes[1] <= 2


def test_progress_tells_how_small_it_is(tmp_path: Path) -> None:
    told: list[str] = []
    onnx.save(stack(1), tmp_path / "a.onnx")
    line, _ = read_when("inspect", group)
    trier = Failing(when_softmax_reads_mul)
    reduce_model(
        tmp_path / "a.onnx",
        ReduceRequest(line, None, tmp_path / "small.onnx"),
        trier,
        lambda what, done, of: told.append(what) or silent(what, done, of),
    )
    assert told[0] == "running the command on the model"
    assert told[-1].startswith("reducing: 2 nodes, ")
