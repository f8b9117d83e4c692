"""The picture of all operators."""

import numpy as np
import pytest

from ppcls_core.data.augment import CenterCrop, Cutout, FMix, GridMask, RandomCrop, Resize
from ppcls_core.data.augment.gallery import GAP, LABEL, TILE, gallery

IMAGE = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
CELL = TILE + GAP


def cells(sheet, row, columns):
    return [
        sheet[row * CELL : (row + 1) * CELL, LABEL + c * CELL :][:, :CELL] for c in range(columns)
    ]


@pytest.mark.parametrize("shape", [(300, 400), (16, 16), (500, 90)])
def test_a_row_an_operator_with_its_name(shape):
    image = np.resize(IMAGE, (*shape, 3))
    before = image.copy()
    sheet = gallery(image, [RandomCrop(), Resize(short=64), Cutout(), FMix()], columns=3)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (4 * CELL, LABEL + 3 * CELL, 3)
    assert np.array_equal(image, before)
    for row in range(4):
        label = sheet[row * CELL : (row + 1) * CELL, :LABEL]
        assert 50 < (label < 128).all(axis=2).sum() < 5000
        assert all((cell != 255).any() for cell in cells(sheet, row, 3))


def test_the_longest_name_fits():
    label = gallery(IMAGE, [Resize(short=9).model_copy(update={"name": "RandomErasing"})], 1)
    assert (label[:, LABEL - 4 : LABEL] == 255).all()
    assert (label[:, LABEL - 60 : LABEL] < 128).any()


def test_results_vary_with_column_and_seed_and_are_reproducible():
    sheets = [gallery(IMAGE, [RandomCrop()], 4, seed) for seed in (0, 1, 0)]
    assert np.array_equal(sheets[0], sheets[2])
    assert not np.array_equal(sheets[0], sheets[1])
    assert len({cell.tobytes() for cell in cells(sheets[0], 0, 4)}) == 4


def test_progress_reaches_the_operators():
    plain = gallery(IMAGE, [GridMask(), CenterCrop()], 2, progress=0.0)
    first, second = cells(plain, 0, 2)
    assert np.array_equal(first, second)
    assert not np.array_equal(
        *(cells(gallery(IMAGE, [GridMask()], 2, progress=p), 0, 1)[0] for p in (0, 1))
    )


def test_nothing_to_show():
    assert gallery(IMAGE, []).shape[2] == 3
