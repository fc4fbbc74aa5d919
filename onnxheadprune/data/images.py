"""Image folders as samples: resized, scaled and normalised as vision models are trained."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxheadprune.data.calibration import (
    MOST_BYTES,
    MOST_SAMPLES,
    Calibration,
    LeftOut,
    More,
    data_of,
    spread,
)
from onnxheadprune.data.formats import IMAGES, images_of
from onnxheadprune.errors import UsageError, heed, require_packages
from onnxheadprune.model.documents import CONFIGURATION, kind_of, read_object, regular_file
from onnxheadprune.runtime.feeds.data import Sample
from onnxheadprune.runtime.feeds.inputs import Input, Role

BATCH = 16
"""Images of a batch."""
CHUNK_BYTES = 2**25
"""Bytes of images that a training reads at once."""
MAX_PIXELS = 50_000_000
"""Of an image; it is unpacked as a whole before it is scaled down, at four bytes each."""
DAMAGED = "that cannot be read"
COLOUR, GREY = 3, 1
"""Numbers of channels."""


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of an image."""

    size: tuple[int, int] | None = None  # height and width to scale to, None takes the model's fixed size
    mean: tuple[float, ...] = (0.5,)  # subtracted per channel, after scaling to 0..1
    std: tuple[float, ...] = (0.5,)  # divided by, per channel


NORMALISATION = "preprocessor_config.json"
"""Holds mean and deviation beside a model."""


def normalisation_in(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation per channel that a folder's image processor specifies; None without one."""
    path = folder / NORMALISATION
    if not path.is_file():
        return None
    fields = read_object(path, CONFIGURATION)
    if fields.get("do_normalize") is False:
        return (0.0,), (1.0,)
    mean, std = (fields.get(name) for name in ("image_mean", "image_std"))
    if mean is None and std is None:
        return None
    found: list[list[Any]] = [item if isinstance(item, list) else [item] for item in (mean, std)]
    for numbers in found:
        if not numbers or not all(type(item) in (int, float) and math.isfinite(item) for item in numbers):
            raise UsageError(
                f"{path} has an image_mean or image_std that is no list of numbers; give them with"
                f" `image_mean` and `image_std`"
            )
    return tuple(map(float, found[0])), tuple(map(float, found[1]))


def image_data(
    folder: str | os.PathLike[str], inputs: Sequence[Input], preprocessing: Preprocessing | None = None
) -> Calibration:
    """Samples for a vision model from the images of a folder and its subfolders, sorted by path.

    Of many images some are read, spread evenly over them; the others are read when they are needed.

    Args:
        inputs: the graph inputs; one must take images, [batch, channels, height, width] or channels last.
    """
    how = preprocessing or Preprocessing()
    if kind_of(folder) is None:
        raise UsageError(f"the folder {folder} does not exist, so it holds no images")
    paths = sorted(images_of(Path(folder)))
    if not paths:
        raise UsageError(f"{folder} holds no images ({', '.join(IMAGES)})")
    pixels = [
        item for item in inputs if item.role is Role.FLOATS and len(item.dims) == 4 and not item.is_cache
    ]
    if len(pixels) != 1 or len(inputs) != 1:
        raise UsageError("the model does not take images as its only input; give its inputs with `data`")
    item = pixels[0]
    layout = _layout(item, how)
    together = item.dims[0] if isinstance(item.dims[0], int) else 1
    groups = [paths[first : first + together] for first in range(0, len(paths), together)]
    groups = [group for group in groups if len(group) == together]
    if not groups:
        raise UsageError(f"the model takes {together} images at once, but {folder} holds {len(paths)}")

    def row(pictures: Sequence[npt.NDArray[np.float32]]) -> Sample:
        return Sample({item.name: np.stack(pictures).astype(item.dtype)}, None, str(folder))

    def read(numbers: Sequence[int]) -> tuple[list[Sample], LeftOut]:
        """Read images, skipping unreadable ones: images that only training reads were not checked."""
        rows, left_out = [], Counter[str]()
        for number in numbers:
            found = [_if_readable(path, layout) for path in groups[number]]
            some = [picture for picture in found if picture is not None]
            if len(some) == together:
                rows.append(row(some))
                continue
            left_out[DAMAGED] += together - len(some)
            left_out[f"in a batch of {together} with one {DAMAGED}"] += len(some)
        return rows, +left_out

    size = layout.channels * layout.height * layout.width * item.dtype.itemsize * together
    order = spread(len(groups))
    kept = max(1, min(MOST_SAMPLES // together, MOST_BYTES // size))
    rest = order[kept:]
    data = data_of(
        (row([_picture(path, layout) for path in groups[number]]) for number in sorted(order[:kept])),
        inputs,
        str(folder),
    )
    more = More(rest, read, len(rest) * together, CHUNK_BYTES // size) if rest else None
    return replace(data, unit="image", more=more, most=BATCH)


@dataclass(frozen=True)
class _Layout:
    channels: int
    height: int
    width: int
    channels_last: bool
    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]


def _layout(item: Input, how: Preprocessing) -> _Layout:
    last = item.dims[3] in (GREY, COLOUR) and item.dims[1] not in (GREY, COLOUR)
    channels, height, width = (item.dims[at] for at in ((3, 1, 2) if last else (1, 2, 3)))
    if how.size is not None:
        for wanted, given in zip(how.size, (height, width), strict=True):
            if isinstance(given, int) and given != wanted:
                raise UsageError(f"the model takes {item.describe()}, which is not the size {how.size}")
        height, width = how.size
    if not isinstance(height, int) or not isinstance(width, int):
        raise UsageError(
            f"the model takes images of any size ({item.describe()}); choose one with `image_size`"
        )
    count = channels if isinstance(channels, int) else COLOUR
    if count not in (GREY, COLOUR):
        raise UsageError(f"the model takes {item.describe()}, which is neither colour nor grey")
    mean, std = (_per_channel(numbers, count) for numbers in (how.mean, how.std))
    if not np.all(std > 0):
        raise UsageError("the standard deviation of images must be above zero")
    return _Layout(count, height, width, last, mean, std)


def _per_channel(numbers: Sequence[float], channels: int) -> npt.NDArray[np.float32]:
    if len(numbers) not in (1, channels):
        raise UsageError(f"the model has {channels} channels, but {len(numbers)} numbers were given for them")
    return np.broadcast_to(np.asarray(numbers, dtype=np.float32), (channels,))


def _if_readable(path: Path, layout: _Layout) -> npt.NDArray[np.float32] | None:
    try:
        return _picture(path, layout)
    except UsageError:
        return None


def _picture(path: Path, layout: _Layout) -> npt.NDArray[np.float32]:
    require_packages("reading images", "images", "PIL")
    from PIL import Image

    regular_file(path, "the image")
    try:
        with Image.open(path) as image:
            if math.prod(image.size) > MAX_PIXELS:
                raise UsageError(
                    f"the image {path} has {image.width:,} x {image.height:,} pixels, and up to {MAX_PIXELS:,} are"
                    " read; scale it down"
                )
            mode = "RGB" if layout.channels == 3 else "L"
            scaled: Any = image.convert(mode).resize((layout.width, layout.height), Image.Resampling.BICUBIC)
    except UsageError:
        raise
    except Image.DecompressionBombError as error:
        raise UsageError(f"the image {path} has more than {MAX_PIXELS:,} pixels; scale it down") from error
    except Exception as error:  # the readers of damaged images raise a dozen types
        heed(error)
        raise UsageError(f"the image {path} cannot be read: {error!s:.300}") from error
    numbers: Any = (
        np.asarray(scaled, dtype=np.float32).reshape(layout.height, layout.width, layout.channels) / 255
    )
    numbers = (numbers - layout.mean) / layout.std
    return np.asarray(numbers if layout.channels_last else numbers.transpose(2, 0, 1), dtype=np.float32)
