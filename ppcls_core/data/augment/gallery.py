"""One picture of what the operators do: a row an operator, one photograph throughout."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from data_catalog.base.config import UserError
from data_catalog.base.files import write_bytes
from ppcls_core.data.augment import BatchOperator, Operator, apply, sized
from ppcls_core.data.augment.common import plain, resized
from ppcls_core.data.augment.crop import CenterCrop, RandomCrop, RandomFlip, Resize
from ppcls_core.data.augment.masks import Cutout, GridMask, HideAndSeek, RandomErasing
from ppcls_core.data.augment.mix import CutMix, FMix, Mixup
from ppcls_core.data.augment.policies import AutoAugment, RandAugment
from ppcls_core.data.decode import BadImage, read_image
from ppcls_core.runtime.randomness import generator

TILE = 160  # pixels, the side of a result's place
GAP = 6
LABEL = 190  # width of the names' column
SIZE = 224  # of the photograph that operators other than crops and resizes get
WHITE = (255, 255, 255)
INK = (30, 30, 30)


def gallery(
    image: np.ndarray,
    operators: Sequence[Operator | BatchOperator],
    columns: int = 8,
    seed: int = 0,
    progress: float = 1.0,
) -> np.ndarray:
    """uint8 RGB sheet: a row of `columns` results an operator, each with a generator of its own.

    Crops and resizes get the photograph `image` (uint8 RGB [H, W, 3]), the others its middle at 224
    pixels. Batch operators mix it with itself turned by 90, 180 and 270 degrees, or not at all
    where an image's partner is itself. Results are shrunk to fit their place, never enlarged.
    """
    rows = []
    for number, operator in enumerate(operators):
        keys = [(seed, number, column) for column in range(columns)]
        results = [_result(image, operator, generator(*key), progress) for key in keys]
        rows.append(np.hstack([_label(operator.name), *map(_tile, results)]))
    return np.vstack(rows) if rows else plain((TILE, LABEL), WHITE)


def _result(
    image: np.ndarray, operator: Operator | BatchOperator, rng: np.random.Generator, progress: float
) -> np.ndarray:
    if isinstance(operator, RandomCrop | Resize | CenterCrop):
        return apply(sized([operator], SIZE), image, rng, progress)
    middle = CenterCrop(size=SIZE)(Resize(short=SIZE)(image, rng, progress), rng, progress)
    if isinstance(operator, Mixup | CutMix | FMix):
        turned = np.stack([np.rot90(middle, turns).transpose(2, 0, 1) for turns in range(4)])
        return operator(turned, np.arange(4), rng).pixels[0].transpose(1, 2, 0)
    return operator(middle, rng, progress)


def _tile(image: np.ndarray) -> np.ndarray:
    """`image` shrunk to fit, in the middle of a white place with a gap about it."""
    height, width = image.shape[:2]
    scale = min(1.0, TILE / max(height, width))
    shape = max(1, round(height * scale)), max(1, round(width * scale))
    place = plain((TILE + GAP, TILE + GAP), WHITE)
    y, x = (TILE + GAP - shape[0]) // 2, (TILE + GAP - shape[1]) // 2
    place[y : y + shape[0], x : x + shape[1]] = resized(image, shape, "area")
    return place


def _label(name: str) -> np.ndarray:
    place = plain((TILE + GAP, LABEL), WHITE)
    baseline = (12, (TILE + GAP) // 2 + 6)
    return cv2.putText(place, name, baseline, cv2.FONT_HERSHEY_SIMPLEX, 0.6, INK, 1, cv2.LINE_AA)


def draw_gallery(image: Path, out: Path, seed: int) -> None:
    """Write the gallery of all operators, at their defaults, of the photograph `image` to `out`.

    Mixup and CutMix mix evenly here: at their default most images would show nothing. Raises
    UserError: the image cannot be read, or the suffix of `out` is not .png or .jpg.
    """
    if out.suffix not in (".png", ".jpg"):
        raise UserError(f"{out}: expected a name that ends in .png or .jpg")
    try:
        pixels = read_image(image)
    except BadImage as error:
        raise UserError(f"{image}: {error}; give a photograph") from error
    every = [RandomCrop(), RandomFlip(), AutoAugment(), RandAugment(), Cutout(), RandomErasing()]
    every += [HideAndSeek(), GridMask(), Mixup(alpha=1.0), CutMix(alpha=1.0), FMix()]
    sheet = gallery(pixels, every, seed=seed)
    encoded = cv2.imencode(out.suffix, cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1]
    write_bytes(out, encoded.tobytes())
