"""The val side of the search: features, thumbnails and hashes of every validation image, on disk.

Files of an index: `index.json` (settings), `images.parquet` and `rejected.parquet` (one row an
image), `thumbs.npy` uint8 [images, 128, 128], `points.npy` float32 [features, 4], `descriptors.npy`
uint8 [features, 128] (the images' features one after the other) and `search.faiss`. An image takes
0.13 MB of disk at 400 features (50,000 images: 6.3 GB). Building holds twice that in memory;
searching holds `search.faiss` (136 bytes a feature), the rest is memory-mapped.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.config import UserError, parse
from data_catalog.files import read_json, write_json
from data_catalog.manifest import REJECTED
from ppcls_core.data.decode import BadImage
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.hashes import THUMB, perceptual_hash
from ppcls_core.dedup.picture import Picture, describe
from ppcls_core.dedup.sift import DIMENSION, Features
from ppcls_core.dedup.threads import map_threads

FORMAT = 1
MAX_EXACT = 8_192  # descriptors up to which every one is compared; beyond, an inverted file
CLOSE = 0.95  # below 1: when a val image is there often, all its copies keep some vote
IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("width", pa.int32()),  # of the decoded picture
        ("height", pa.int32()),
        ("reduced_width", pa.int32()),  # of the grey copy in whose pixels `points` are
        ("reduced_height", pa.int32()),
        ("digest", pa.string()),
        ("hash", pa.uint64()),
        ("num_features", pa.int32()),
    ]
)


@dataclass(frozen=True)
class _Entry:
    """What the index keeps of one image; `row` as in IMAGES."""

    row: dict[str, Any]
    thumb: np.ndarray
    features: Features


@dataclass(frozen=True)
class IndexStats:
    """Outcome of `build_index`: num_images = num_indexed + the sum of `rejected` (count by reason);
    `num_weak` of the indexed have too few features for SIFT."""

    num_images: int
    num_indexed: int
    num_weak: int
    num_descriptors: int
    rejected: dict[str, int]


def build_index(
    paths: Sequence[Path],
    ids: Sequence[str],
    config: DedupConfig,
    out: Path,
    on_progress: Callable[[int], None],
) -> IndexStats:
    """Describe the validation images `paths` and leave the index in the directory `out`.

    Images that cannot be read are listed in `rejected.parquet` and counted; they stop nothing.
    `on_progress` is called with the number of images done and may raise to stop.
    """
    done = count(1)

    def read(item: tuple[str, Path]) -> _Entry | dict[str, str]:
        image_id, path = item
        try:
            picture = describe(path, config)
        except BadImage as error:
            return rejection(image_id, error)
        return _Entry(_row(image_id, picture), picture.thumb, picture.features)

    items = list(zip(ids, paths, strict=True))
    results = map_threads(read, items, os.cpu_count() or 1, lambda: on_progress(next(done)))
    entries = [r for r in results if isinstance(r, _Entry)]
    rejected = [r for r in results if isinstance(r, dict)]
    out.mkdir(parents=True, exist_ok=True)
    num_descriptors = _write_entries(entries, out)
    pq.write_table(pa.Table.from_pylist(rejected, REJECTED), out / "rejected.parquet")
    write_json(out / "index.json", {"format": FORMAT, "config": config.model_dump()})
    weak = sum(len(entry.features) < config.min_features for entry in entries)
    reasons = dict(sorted(Counter(r["reason"] for r in rejected).items()))
    return IndexStats(len(paths), len(entries), weak, num_descriptors, reasons)


def rejection(image_id: str, error: BadImage) -> dict[str, str]:
    """The REJECTED row of an image that cannot be read."""
    return {"image_id": image_id, "reason": error.reason, "detail": error.detail}


def _write_entries(entries: list[_Entry], out: Path) -> int:
    """Write the arrays and the table of the images; the number of descriptors."""
    descriptors = _join([e.features.descriptors for e in entries], (DIMENSION,), np.uint8)
    np.save(out / "descriptors.npy", descriptors)
    np.save(out / "points.npy", _join([e.features.points for e in entries], (4,), np.float32))
    np.save(out / "thumbs.npy", _join([e.thumb[None] for e in entries], (THUMB, THUMB), np.uint8))
    table = pa.Table.from_pylist([e.row for e in entries], IMAGES)
    pq.write_table(table, out / "images.parquet")
    _write_search(descriptors, out / "search.faiss")
    return len(descriptors)


def _row(image_id: str, picture: Picture) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "width": picture.size[0],
        "height": picture.size[1],
        "reduced_width": picture.grey.shape[1],
        "reduced_height": picture.grey.shape[0],
        "digest": picture.digest,
        "hash": perceptual_hash(picture.thumb),
        "num_features": len(picture.features),
    }


def _join(arrays: list[np.ndarray], shape: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros((0, *shape), dtype), *arrays])


def _write_search(descriptors: np.ndarray, path: Path) -> None:
    """The nearest-neighbour structure over all descriptors, one byte a dimension.

    Distances between bytes are exact. Training runs on one thread, because faiss' k-means gives
    other cells with other thread counts.
    """
    import faiss

    byte = faiss.ScalarQuantizer.QT_8bit_direct
    num_cells = 2 ** round(np.log2(2 * np.sqrt(max(1, len(descriptors)))))
    if len(descriptors) <= MAX_EXACT:
        index = faiss.IndexScalarQuantizer(DIMENSION, byte)
        index.is_trained = True  # bytes need no training, which faiss refuses on an empty set
    else:
        coarse = faiss.IndexFlatL2(DIMENSION)
        # by_residual (the default) would store differences, which are no bytes
        index = faiss.IndexIVFScalarQuantizer(
            coarse, DIMENSION, num_cells, byte, faiss.METRIC_L2, False
        )
        index.cp.niter, index.cp.max_points_per_centroid = 8, 64
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        sample = descriptors[:: max(1, len(descriptors) // (64 * num_cells))]
        index.train(sample.astype(np.float32))
        faiss.omp_set_num_threads(threads)
    for start in range(0, len(descriptors), 1 << 18):  # float copies of a part at a time
        index.add(descriptors[start : start + (1 << 18)].astype(np.float32))
    faiss.write_index(index, str(path))


class ValIndex:
    """A loaded index; safe to search from several threads."""

    def __init__(self, path: Path, config: DedupConfig) -> None:
        import faiss

        self.config = config
        self.images = pq.read_table(path / "images.parquet")
        self.ids: list[str] = self.images["image_id"].to_pylist()
        self.hashes = self.images["hash"].to_numpy()
        self.thumbs = np.load(path / "thumbs.npy", mmap_mode="r")
        self._points = np.load(path / "points.npy", mmap_mode="r")
        self._descriptors = np.load(path / "descriptors.npy", mmap_mode="r")
        counts = self.images["num_features"].to_numpy()
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._owners = np.repeat(np.arange(len(counts)), counts)
        self._search = faiss.read_index(str(path / "search.faiss"))
        if hasattr(self._search, "nprobe"):
            self._search.nprobe = config.num_probes  # pyright: ignore[reportAttributeAccessIssue]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def sizes(self) -> np.ndarray:
        """int [images, 4]: width, height, reduced width, reduced height."""
        names = ("width", "height", "reduced_width", "reduced_height")
        return np.column_stack([self.images[name].to_numpy() for name in names])

    @cached_property
    def by_digest(self) -> dict[str, list[int]]:
        """Rows of the images with these pixels."""
        rows: defaultdict[str, list[int]] = defaultdict(list)
        for row, digest in enumerate(self.images["digest"].to_pylist()):
            rows[digest].append(row)
        return dict(rows)

    def features(self, row: int) -> Features:
        """Features of one val image."""
        part = slice(self._starts[row], self._starts[row + 1])
        return Features(self._points[part], self._descriptors[part])

    def votes(self, descriptors: np.ndarray) -> np.ndarray:
        """float64 [images]: how much the query `descriptors` (uint8 [n, 128]) speak for each image.

        A neighbour's vote is how much nearer it is than the furthest one found (the adaptive
        criterion of Jegou et al. 2011); an image gets at most one vote of each descriptor.
        """
        if len(self._owners) == 0 or len(descriptors) == 0:
            return np.zeros(len(self))
        k = min(self.config.num_neighbours, len(self._owners))
        distances, rows = self._search.search(descriptors.astype(np.float32), k)
        distances[rows < 0] = np.nan  # too few in the probed cells
        limit = np.nanmax(distances, axis=1, keepdims=True, initial=1.0)
        weights = np.nan_to_num(1 - CLOSE * distances / limit)
        owners = self._owners[rows]
        earlier = (owners[:, :, None] == owners[:, None, :]) & np.tri(k, k, -1, dtype=bool)
        weights[earlier.any(axis=2)] = 0
        return np.bincount(owners.ravel(), weights.ravel(), minlength=len(self))


def load_index(path: Path) -> ValIndex:
    """The index that `build_index` left in the directory `path`.

    Raises:
        UserError: there is no index, or one of another format.
    """
    head = read_json(path / "index.json")
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise UserError(f"{path}: no index of format {FORMAT} there; build it anew")
    return ValIndex(path, parse(DedupConfig, head["config"], str(path)))
