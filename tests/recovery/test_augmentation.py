"""Pictures of a training: moved as asked for, anew in every epoch, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnxheadprune import Budget, PruneResult, UsageError, prune
from onnxheadprune.runtime import Array
from onnxheadprune.runtime.feeds import Feed, Input, Role
from onnxheadprune.runtime.feeds.symbols import read_dim
from onnxheadprune.selection.recovery import parse_augment
from onnxheadprune.selection.recovery.augmentation import augmented, require_pictures
from onnxheadprune.selection.recovery.batches import Batches
from onnxheadprune.selection.recovery.student import Student
from onnxheadprune.workflow import choosing
from onnxheadprune.workflow import recover as recovering
from tests import toys_recovery
from tests.conftest import Outcome
from tests.recovery.trainings import Stop

HEADS = {0: [1, 2], 1: [0]}
SIZE = (16, 24)
MOST = (2, 3)
"""Of a shift: an eighth of the size."""


def takes(name: str, *dims: int | str, role: Role = Role.FLOATS, dtype: Any = np.float32) -> Input:
    read = tuple(dim if isinstance(dim, int) else read_dim(dim) for dim in dims)
    return Input(name, np.dtype(dtype), read, role)


FIRST = takes("pixels", "batch", 3, "height", "width")
LAST = takes("pixels", "batch", "height", "width", 3)
IDS = takes("input_ids", "batch", "sequence", role=Role.IDS, dtype=np.int64)
PAST = takes("past_key", "batch", 3, "past", 16)


class Given(Batches):
    """Feeds as they are."""

    kind = "feeds as they are"

    def __init__(self, *feeds: Feed) -> None:
        self.feeds = feeds

    @property
    def count(self) -> int:
        """Feeds of an epoch."""
        return len(self.feeds)

    def epoch(self, random: np.random.Generator) -> list[Feed]:
        """All of them."""
        return list(self.feeds)


def pictures(count: int = 40, dtype: Any = np.float32) -> Array:
    """Pictures whose pixels are all different, channels first."""
    return np.random.default_rng(3).standard_normal((count, 3, *SIZE)).astype(dtype)


def moved(array: Array, ways: str, *, item: Input = FIRST, seed: int = 0) -> Array:
    batches = augmented(Given({"pixels": array}), [item], parse_augment(ways))
    return batches.epoch(np.random.default_rng(seed))[0]["pixels"]


def shifted(picture: Array, down: int, right: int) -> Array:
    """One picture, channels first, as the definition has it: padded by reflection, then cut out."""
    rows, columns = MOST
    wide = np.pad(picture, ((0, 0), (rows, rows), (columns, columns)), mode="reflect")
    return wide[:, rows + down : rows + down + SIZE[0], columns + right : columns + right + SIZE[1]]


# What is done to pictures


def test_flips_are_exact_mirrors_of_half_of_them() -> None:
    array = pictures()
    flipped = [
        not np.array_equal(after, before) for before, after in zip(array, moved(array, "flips"), strict=True)
    ]
    assert 10 < sum(flipped) < 30
    expected = np.where(np.array(flipped)[:, None, None, None], array[..., ::-1], array)
    np.testing.assert_array_equal(moved(array, "flips"), expected)


def test_crops_only_shift_by_up_to_an_eighth() -> None:
    array = pictures(200)
    found = set()
    for before, after in zip(array, moved(array, "crops"), strict=True):
        ways = [(down, right) for down in range(-2, 3) for right in range(-3, 4)]
        (way,) = [way for way in ways if np.array_equal(after, shifted(before, *way))]
        found.add(way)
    assert {down for down, _ in found} == set(range(-2, 3))
    assert {right for _, right in found} == set(range(-3, 4))


def test_both_are_a_shift_and_perhaps_a_mirror() -> None:
    array = pictures()
    ways = [(down, right) for down in range(-2, 3) for right in range(-3, 4)]
    mirrored = 0
    for before, after in zip(array, moved(array, "flips,crops"), strict=True):
        plain = any(np.array_equal(after, shifted(before, *way)) for way in ways)
        turned = any(np.array_equal(after[..., ::-1], shifted(before, *way)) for way in ways)
        assert plain != turned
        mirrored += turned
    assert 10 < mirrored < 30


def test_channels_last_are_moved_alike() -> None:
    array = pictures()
    last = moved(np.ascontiguousarray(array.transpose(0, 2, 3, 1)), "flips,crops", item=LAST)
    np.testing.assert_array_equal(last.transpose(0, 3, 1, 2), moved(array, "flips,crops"))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_shapes_and_types_are_kept(dtype: Any) -> None:
    array = pictures(dtype=dtype)
    after = moved(array, "flips,crops")
    assert after.shape == array.shape and after.dtype == array.dtype
    assert not np.array_equal(after, array)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 7)])
def test_small_pictures_are_shifted_by_a_pixel_where_there_is_one(size: tuple[int, int]) -> None:
    array = np.random.default_rng(0).standard_normal((64, 3, *size)).astype(np.float32)
    after = moved(array, "crops")
    assert (after != array).any() == (size != (1, 1))
    for before, now in zip(array, after, strict=True):
        assert np.isin(now, before).all()


# When, and what stays


def test_every_epoch_draws_anew_and_a_seed_decides() -> None:
    array = pictures()
    batches = augmented(Given({"pixels": array}), [FIRST], ("flips", "crops"))
    random = np.random.default_rng(1)
    first, second = (batches.epoch(random)[0]["pixels"] for _ in range(2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, moved(array, "flips,crops", seed=1))
    np.testing.assert_array_equal(array, pictures())


def test_other_inputs_stay() -> None:
    ids, past = np.arange(80).reshape(40, 2), pictures()
    feed = {"pixels": pictures(), "input_ids": ids, "past_key": past}
    batches = augmented(Given(feed, feed), [IDS, PAST, FIRST], ("flips",))
    assert batches.count == 2
    for made in batches.epoch(np.random.default_rng(0)):
        assert made["input_ids"] is ids and made["past_key"] is past
        assert not np.array_equal(made["pixels"], feed["pixels"])


def test_without_a_way_batches_are_as_they_were() -> None:
    plain = Given({"input_ids": np.zeros((2, 3), np.int64)})
    assert augmented(plain, [IDS], ()) is plain


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (
            [IDS],
            r"takes no pictures \(input_ids: int64 \[batch, sequence\]\), so there is nothing to augment",
        ),
        ([IDS, PAST], "takes no pictures"),
        ([FIRST, takes("other", "batch", 1, 8, 8)], "several inputs that may be pictures"),
        ([takes("features", "batch", 64, 14, 14)], "neither colour nor grey"),
    ],
)
def test_a_model_without_pictures_is_refused(inputs: list[Input], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        require_pictures(inputs)


@pytest.mark.parametrize(
    ("named", "ways"),
    [("crops, flips", ("flips", "crops")), (["crops"], ("crops",)), ((), ()), ("flips,flips", ("flips",))],
)
def test_ways_have_one_order(named: Any, ways: tuple[str, ...]) -> None:
    assert parse_augment(named) == ways


@pytest.mark.parametrize(("named", "told"), [("", "nothing"), ("flips,turns", "turns"), ("Flips", "Flips")])
def test_other_ways_are_refused(named: str, told: str) -> None:
    with pytest.raises(UsageError, match=f"by flips, by crops or by flips,crops, not by {told}"):
        parse_augment(named)


# Trainings


def trained(digits: Path, data: Path, output: Path | None = None, **given: Any) -> PruneResult:
    images = np.load(data)["images"][:64]
    feeds = [{"images": images[start : start + 16]} for start in range(0, 64, 16)]
    settings: dict[str, Any] = {"recover": Budget(epochs=2), "augment": "flips,crops", "provider": "cpu"}
    return prune(digits, HEADS, output, data=feeds, **{**settings, **given})


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Array]]:
    """Pictures of steps, those of the search for a rate too, and of losses on held-out data."""
    found: dict[str, list[Array]] = {"slope": [], "loss": []}

    def watched(name: str) -> None:
        run = getattr(Student, name)

        def noting(self: Student, feed: Feed) -> Any:
            found[name].append(feed["images"])
            return run(self, feed)

        monkeypatch.setattr(Student, name, noting)

    watched("slope")
    watched("loss")
    return found


@pytest.mark.long
def test_steps_see_moved_pictures_and_held_out_ones_stay(
    digits: Path, digits_calibration: Path, seen: dict[str, list[Array]]
) -> None:
    result = trained(digits, digits_calibration)
    assert result.validation is not None and result.validation.passed
    found = result.to_dict()["choice"]["recovery"]
    assert found["learned_from"] == "pictures, mirrored and shifted" and found["steps"] == 6
    known = {picture.tobytes() for picture in np.load(digits_calibration)["images"]}
    assert len(seen["slope"]) > 20
    assert all(any(picture.tobytes() not in known for picture in step) for step in seen["slope"])
    assert all(picture.tobytes() in known for step in seen["loss"] for picture in step)
    assert len({step.tobytes() for step in seen["slope"][-6:]}) == 6


@pytest.mark.long
def test_the_same_bytes_follow_and_others_without(digits: Path, digits_calibration: Path) -> None:
    one, again = (trained(digits, digits_calibration).model for _ in range(2))
    plain, other = (trained(digits, digits_calibration, augment=ways).model for ways in ((), ("flips",)))
    whole = one.SerializeToString(deterministic=True)
    assert again.SerializeToString(deterministic=True) == whole
    assert whole not in [model.SerializeToString(deterministic=True) for model in (plain, other)]


@pytest.mark.long
def test_a_training_is_gone_on_with_by_the_same_augmentation_alone(
    digits: Path, digits_calibration: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole.onnx", tmp_path / "parts.onnx"
    trained(digits, digits_calibration, whole)
    with pytest.raises(MemoryError):
        trained(digits, digits_calibration, parts, progress=Stop(MemoryError, 5))
    for ways in ((), "flips"):
        with pytest.raises(UsageError, match="another budget, augmentation or seed"):
            trained(digits, digits_calibration, parts, augment=ways, resume=True)
    trained(digits, digits_calibration, parts, resume=True)
    assert parts.read_bytes() == whole.read_bytes()


# Before any work


def test_sentences_are_not_augmented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "named", None)
    feeds, budget = toys_recovery.sentences(), Budget(epochs=1)
    with pytest.raises(UsageError, match="takes no pictures"):
        prune(toys_recovery.encoder(), HEADS, data=feeds, recover=budget, augment="flips")


def test_recover_refuses_before_the_proof_of_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = toys_recovery.encoder(), toys_recovery.sentences()
    pruned = prune(model, HEADS, provider="cpu").model
    monkeypatch.setattr(recovering, "validate", None)
    with pytest.raises(UsageError, match="takes no pictures"):
        recovering.recover(model, pruned, data=feeds, budget=Budget(epochs=1), augment="flips")


def test_nothing_is_augmented_without_a_training(digits: Path) -> None:
    with pytest.raises(UsageError, match="pictures are augmented for a training, and none is asked for"):
        prune(digits, HEADS, augment="flips")


@pytest.mark.parametrize(
    "line", ["prune {0} --heads 0:1 --recover 1", "recover {0} {0}", "sweep {0} 0:0.5:0.5 --recover 1"]
)
def test_the_command_names_the_ways(line: str, digits: Path, command: Callable[..., Outcome]) -> None:
    words = line.format(digits).split()
    out = () if words[0] == "sweep" else ("-o", "out.onnx")
    outcome = command(*words, *out, "--data", digits.with_name("digits_test.npz"), "--augment", "turns")
    assert outcome.exit_code == 2
    assert "by flips, by crops or by flips,crops, not by turns" in " ".join(outcome.stderr.split())
