"""Pairs to look at: the borderline on both sides of the rule, some of each channel; their evidence
drawn.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa

from ppcls_core.data.decode import BadImage, read_image
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.features import Find, extract, mirror, negate, reduce
from ppcls_core.dedup.match.pairs import CHANNELS, PAIRS
from ppcls_core.dedup.match.pixels import apply
from ppcls_core.dedup.match.verify import ALIKE, UNIT, similarities
from ppcls_core.runtime.randomness import seed_of
from ppcls_core.runtime.threads import map_threads

Row = dict[str, Any]  # of PAIRS
Kind = Literal["accepted", "refused", "sample"]  # the borderline's two sides; any accepted pair
GALLERY = pa.schema(
    [
        *(column for column in PAIRS if not column.name.endswith("_sha256")),
        ("kind", pa.string()),
        ("planted", pa.string()),  # the transform it was planted with; null where none is known
    ]
)
_SIDES: Sequence[Kind] = ("accepted", "refused")
DOUBTED = ("sift", "phash")  # channels that a rule decides, the ones to be doubted most first
NUM_BORDERLINE, NUM_SAMPLES = 8, 2  # of each channel: on either side of the rule; any
SIDE, GAP = 264, 8  # pixels: the box of one of the two pictures, between them
NUM_LINES = 40
LINE, OUTLINE = (0, 200, 110), (255, 140, 0)


@dataclass(frozen=True, eq=False)
class DuplicatePair:
    """Two images, whether one shows the other, and the evidence; fields as in GALLERY.

    `picture`: both side by side (uint8 RGB [H, W, 3]), None when one cannot be read any more.
    """

    pool_id: str
    val_id: str
    channel: str
    score: float
    inliers: int
    margin: float
    kind: Kind
    picture: np.ndarray | None
    planted: str | None = None
    reviewed: bool = False


@dataclass
class Gallery:
    """The best of pairs that come part by part: `groups` are (kind, channel).

    Each channel has its borderline, for their margins are on different scales. Those `planted`
    ((pool_id, val_id) -> how), whose truth is known, come behind the others; of those that a person
    has judged none is borderline.
    """

    planted: Mapping[tuple[str, str], str] = field(default_factory=dict)
    groups: defaultdict[tuple[Kind, str], list[Row]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def add(self, pairs: list[Row], refused: Iterable[Row]) -> None:
        """Choose among more pairs, and those nearly accepted. Those of an image that is removed
        anyhow do not matter."""
        removed = {row["pool_id"] for row in pairs}
        rest = [row for row in refused if row["pool_id"] not in removed and not row["reviewed"]]
        near = [row for row in pairs if not row["reviewed"]]
        for channel in DOUBTED:
            self._choose(
                ("accepted", channel),
                near,
                lambda row: (_key(row) in self.planted, row["margin"], _key(row)),
            )
            self._choose(("refused", channel), rest, lambda row: (-row["margin"], _key(row)))
        for channel in CHANNELS:
            self._choose(("sample", channel), pairs, lambda row: seed_of(*_key(row)))

    def _choose(
        self, group: tuple[Kind, str], rows: Iterable[Row], rank: Callable[[Row], Any]
    ) -> None:
        more = [row for row in rows if row["channel"] == group[1]]
        self.groups[group] = sorted([*self.groups[group], *more], key=rank)[:NUM_BORDERLINE]

    def chosen(self) -> list[tuple[Kind, Row]]:
        """Each pair once, the borderline first."""
        chosen: list[tuple[Kind, Row]] = []
        for kind in _SIDES:
            chosen.extend((kind, row) for name in DOUBTED for row in self.groups[kind, name])
        near = {_key(row) for _, row in chosen}
        for channel in CHANNELS:
            others = (row for row in self.groups["sample", channel] if _key(row) not in near)
            chosen.extend(("sample", row) for row in islice(others, NUM_SAMPLES))
        return chosen

    def table(self) -> pa.Table:
        """The chosen pairs (GALLERY)."""
        rows = [
            {**row, "kind": kind, "planted": self.planted.get(_key(row))}
            for kind, row in self.chosen()
        ]
        return pa.Table.from_pylist(rows, GALLERY)  # which leaves out the digests


def _key(row: Row) -> tuple[str, str]:
    return row["pool_id"], row["val_id"]


def duplicate_pairs(
    chosen: pa.Table, pool: Find, val: Find, config: DedupConfig
) -> tuple[DuplicatePair, ...]:
    """The pairs `chosen` (GALLERY), drawn; `pool` and `val` say where their images are."""
    rows = chosen.to_pylist()
    places = [pool(row["pool_id"] for row in rows), val(row["val_id"] for row in rows)]

    def drawn(row: Row) -> DuplicatePair:
        transform = row.pop("transform")
        try:
            sources = (place[name] for place, name in zip(places, _key(row), strict=True))
            first, second = (read_image(source) for source in sources)
        except (BadImage, KeyError):
            return DuplicatePair(**row, picture=None)
        return DuplicatePair(**row, picture=draw(first, second, transform, config))

    return tuple(map_threads(drawn, rows, os.cpu_count() or 1))


def draw(
    pool: np.ndarray, val: np.ndarray, transform: list[float], config: DedupConfig
) -> np.ndarray:
    """RGB uint8: `pool` beside `val` (RGB uint8 each), lines between keypoints that obey
    `transform`, and the frame of either in the other."""
    homography = np.reshape(transform, (3, 3)).astype(np.float64)
    points = matched_points(pool, val, homography, config)[:NUM_LINES]
    small = [_fitted(image) for image in (pool, val)]
    zooms = [small[0].shape[1] / pool.shape[1], small[1].shape[1] / val.shape[1]]
    _outline(small[0], np.linalg.inv(homography), val.shape, zooms[0])
    _outline(small[1], homography, pool.shape, zooms[1])
    canvas = np.full((SIDE, 2 * SIDE + GAP, 3), 255, np.uint8)
    places = []
    for image, left in zip(small, (0, SIDE + GAP), strict=True):
        height, width = image.shape[:2]
        y, x = (SIDE - height) // 2, left + (SIDE - width) // 2
        canvas[y : y + height, x : x + width] = image
        places.append((x, y))
    ends = points.reshape(-1, 2, 2) * np.reshape(zooms, (2, 1)) + places  # line, picture, (x, y)
    for first, second in np.rint(ends).astype(int).tolist():
        cv2.line(canvas, first, second, LINE, 1, cv2.LINE_AA)
        for end in (first, second):
            cv2.circle(canvas, end, 2, LINE, -1, cv2.LINE_AA)
    return canvas


def matched_points(
    pool: np.ndarray, val: np.ndarray, homography: np.ndarray, config: DedupConfig
) -> np.ndarray:
    """float64 [k, 4]: x, y in `pool` and in `val` of keypoints that are alike and that the map lays
    upon each other, the likest first."""
    sides, features = [], []
    for image in (pool, val):
        grey = reduce(image, config)
        sides.append(np.divide(image.shape[1::-1], grey.shape[::-1]))
        features.append(extract(grey, config, config.num_features))
    a, b = features
    if not len(a) or not len(b):
        return np.zeros((0, 4))
    p, v = (f.points[:, :2] * side for f, side in zip(features, sides, strict=True))
    off = np.linalg.norm((apply(homography, p)[:, None] - v) / sides[1], axis=2)
    near = off < 2 * config.tolerance  # False where the map gives NaN
    found = np.zeros((0, 2), int)
    plain = mirror(a, 0) if np.linalg.det(homography) < 0 else a
    for state in (plain, negate(plain)):
        product = np.where(near, similarities(state.descriptors, b.descriptors), 0)
        nearest = product.argmax(axis=1)
        mutual = product.argmax(axis=0)[nearest] == np.arange(len(a))
        best = product[np.arange(len(a)), nearest]
        rows = np.flatnonzero(mutual & (best > ALIKE * UNIT))
        rows = rows[np.argsort(-best[rows], kind="stable")]
        if len(rows) > len(found):
            found = np.column_stack([rows, nearest[rows]])
    return np.hstack([p[found[:, 0]], v[found[:, 1]]])


def _fitted(image: np.ndarray) -> np.ndarray:
    """A copy whose longer side has SIDE pixels."""
    zoom = SIDE / max(image.shape[:2])
    size = [max(1, round(side * zoom)) for side in image.shape[1::-1]]
    how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=how)


def _outline(
    image: np.ndarray, homography: np.ndarray, shape: tuple[int, ...], zoom: float
) -> None:
    """Draw where the map takes the frame of a picture of that shape."""
    height, width = shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    mapped = apply(homography, corners) * zoom
    if np.isfinite(mapped).all():
        polygon = np.clip(np.rint(mapped), -9999, 9999).astype(np.int32)
        cv2.polylines(image, [polygon], True, OUTLINE, 2, cv2.LINE_AA)
