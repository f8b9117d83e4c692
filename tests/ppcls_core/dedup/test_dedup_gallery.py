"""Pairs to look at: which are chosen, and what is drawn."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.match.pixels import apply
from ppcls_core.dedup.result.gallery import (
    GAP,
    LINE,
    NUM_BORDERLINE,
    NUM_SAMPLES,
    OUTLINE,
    SIDE,
    Gallery,
    draw,
    duplicate_pairs,
    matched_points,
)
from tests.ppcls_core.dedup.test_dedup_command import picture, save

CONFIG = DedupConfig(num_features=120, min_side=96)
UNIT = [1.0, 0, 0, 0, 1, 0, 0, 0, 1]


def row(name: str, margin: float, channel: str = "sift") -> dict[str, Any]:
    pair = {"pool_id": name, "val_id": "v.png", "channel": channel, "score": 0.5 + margin}
    return {**pair, "inliers": 9, "margin": margin, "transform": UNIT, "reviewed": False}


def names(gallery: Gallery, kind: str) -> list[str]:
    return [pair["pool_id"] for group, pair in gallery.chosen() if group == kind]


def test_the_borderline_is_chosen_whatever_the_parts() -> None:
    pairs = [row(f"p{i:02d}", i / 100) for i in range(40)]
    refused = [row(f"r{i:02d}", -i / 100 - 0.001) for i in range(40)]
    whole, parts = Gallery(), Gallery()
    whole.add(pairs, refused)
    for start in range(0, 40, 7):
        order = slice(start, start + 7)
        parts.add(pairs[::-1][order], refused[::-1][order])
    assert whole.chosen() == parts.chosen()
    assert names(whole, "accepted") == [f"p{i:02d}" for i in range(NUM_BORDERLINE)]
    assert names(whole, "refused") == [f"r{i:02d}" for i in range(NUM_BORDERLINE)]
    assert 0 < len(names(whole, "sample")) <= NUM_SAMPLES
    assert not set(names(whole, "sample")) & set(names(whole, "accepted"))


def test_files_that_are_equal_are_no_borderline_but_a_sample() -> None:
    gallery = Gallery()
    gallery.add([row("same", 0.1, "bytes"), row("copy", 0.4)], [row("copy", -0.1)])
    assert names(gallery, "accepted") == ["copy"]
    assert names(gallery, "refused") == []  # it is removed anyhow
    assert names(gallery, "sample") == ["same"]


def test_pairs_whose_truth_is_known_come_last() -> None:
    gallery = Gallery({("known", "v.png"): "crop"})
    gallery.add([row("known", 0.1), row("new", 0.4)], [])
    assert names(gallery, "accepted") == ["new", "known"]


@pytest.mark.parametrize("how", ["crop", "mirror", "negative", "turn"])
def test_matched_points_obey_the_map(how: str) -> None:
    val = np.ascontiguousarray(picture(3)[..., ::-1])
    pool, homography = {
        "crop": (val[20:100, 30:150], np.array([[1.0, 0, 30], [0, 1, 20], [0, 0, 1]])),
        "mirror": (val[:, ::-1], np.array([[-1.0, 0, 160], [0, 1, 0], [0, 0, 1]])),
        "negative": (255 - val, np.eye(3)),
        "turn": (np.rot90(val), np.array([[0.0, -1, 160], [1, 0, 0], [0, 0, 1]])),
    }[how]
    points = matched_points(np.ascontiguousarray(pool), val, homography, CONFIG)
    assert len(points) >= 15
    off = np.linalg.norm(apply(homography, points[:, :2]) - points[:, 2:], axis=1)
    assert np.median(off) < 1.5
    assert len(matched_points(pool[:40, :40].copy(), 0 * val, homography, CONFIG)) == 0


def test_the_frame_lies_where_the_map_says() -> None:
    val = np.full((100, 200, 3), 90, np.uint8)
    drawn = draw(val[:50, :100], val, UNIT, CONFIG)
    assert drawn.shape == (SIDE, 2 * SIDE + GAP, 3)
    marked = (np.abs(drawn[:, SIDE + GAP :].astype(int) - OUTLINE).max(axis=2) < 40).nonzero()
    top, half = (SIDE - SIDE // 2) // 2, SIDE // 2  # the picture is twice as wide as high
    assert abs(marked[1].max() - half) <= 2
    assert abs(marked[0].max() - (top + half // 2)) <= 2
    assert not (np.abs(drawn.astype(int) - LINE).max(axis=2) < 10).any()  # nothing matches


def test_odd_maps_are_drawn_all_the_same() -> None:
    image = picture(1)
    for transform in ([*UNIT[:6], 0.02, 0.01, -1], [1e9, 0, -1e12, 0, 1e9, 0, 0, 0, 1]):
        assert draw(image, image, transform, CONFIG).shape[0] == SIDE


def test_a_picture_that_is_gone_leaves_a_pair_without_one(tmp_path: Path) -> None:
    save(tmp_path / "v.png", picture(0))
    cv2.imwrite(str(tmp_path / "p.png"), picture(0)[10:, 10:])
    gallery = Gallery({("p.png", "v.png"): "crop"})
    gallery.add([row("p.png", 0.2), row("gone.png", 0.3)], [])
    files = {name: tmp_path / name for name in ("p.png", "v.png")}
    gone, there = duplicate_pairs(
        gallery.table(), lambda ids: dict(files), lambda ids: dict(files), CONFIG
    )
    assert (gone.pool_id, gone.picture, gone.planted) == ("gone.png", None, None)
    assert there.picture is not None
    assert there.planted == "crop"
