"""The val side of the search: features, thumbnails and hashes of every validation image, on disk.

Files of an index: `index.json` (settings), `images.parquet` and `rejected.parquet` (one row an
image), `greys.bin` (their reduced grey copies as JPEG), `points.bin` float32 [features, 4],
`descriptors.bin` uint8 [features, 128] (each the images' one after the other) and `search.faiss`.
All but the tables is memory-mapped. Of images with equal pixels only the first has features there:
a descriptor that is there as often as neighbours are asked for would vote for none.

Nearest neighbours are exact for few descriptors, else found by an inverted file, which keeps
CODES / 2 bytes a descriptor. Both are searched on the CPU, on machines with a GPU too: the same
settings find the same pairs everywhere.
"""

import errno
import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.base.config import UserError, parse
from data_catalog.base.files import read_json, write_json
from data_catalog.images.columns import REJECTED, Images, Source
from ppcls_core.data.decode import BadImage
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.features import DIMENSION, Features, describe, perceptual_hash
from ppcls_core.runtime.monitor import Monitor
from ppcls_core.runtime.shards import Advance, ShardJob, read_shards, run_shards, shard_file
from ppcls_core.runtime.threads import map_threads

FORMAT = 4
SHARD_SIZE = 512  # images; a killed build loses at most so many, and holds 60 MB of them
UNIT = "images indexed"
GREY_QUALITY = 90  # of the grey copies' JPEG
CLOSE = 0.95  # of the furthest neighbour's distance; one nearly as far has next to no vote
FAINT = 0.1  # votes below are chance
TURNS, ZOOMS = 16, 16  # bins of a whole turn, and of octaves
TURN = 2 * np.pi / TURNS
CELLS = 0.5  # x the root of the number of descriptors: cells of the inverted file
MIN_TRAINING = 64  # descriptors a cell that it is fitted to
MIN_DESCRIPTORS = 1024  # with fewer the codes cannot be fitted
MAX_FLAT_CELLS = 512  # beyond, a graph finds the nearest cells, so that more of them
FINER = 4  # x as many cost no more
CODES = 32  # of 4 bits a descriptor, whose distances are then approximate
PART = 1 << 18  # descriptors of which float copies are made at a time
FindNearest = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("width", pa.int32()),  # of the decoded picture
        ("height", pa.int32()),
        ("reduced_width", pa.int32()),  # of the grey copy in whose pixels `points` are
        ("reduced_height", pa.int32()),
        ("bytes_digest", pa.string()),  # sha256 of the file
        ("digest", pa.string()),  # of the pixels
        ("conclusive", pa.bool_()),  # files of these pixels show the same
        ("hash", pa.uint64()),
        ("num_features", pa.int32()),  # 0 where an earlier image has the same pixels
        ("grey_bytes", pa.int32()),
    ]
)


ENTRIES = pa.schema(
    [*IMAGES, ("grey", pa.binary()), ("points", pa.binary()), ("descriptors", pa.binary())]
)
"""An image of IMAGES with its part of the binary files, as a shard of the index keeps it."""


def build_index(
    images: Images, config: DedupConfig, out: Path, workers: int, monitor: Monitor
) -> None:
    """Describe the validation `images` and leave the index in the directory `out`.

    Images that cannot be read are listed in `rejected.parquet`; they stop nothing. The work is done
    in shards below `out`, so that a build that was stopped or killed goes on behind those that are
    whole. `index.json` is written last: without it there is no index.

    Raises Interrupted: a stop was requested; finished shards are kept.
    """

    def process(rows: range, advance: Advance) -> dict[str, pa.Table]:
        part = images.part(rows.start, rows.stop)
        items = zip(part.ids, part.sources(), strict=True)
        entries, rejected = [], []
        for entry in map_threads(lambda item: _entry(*item, config), items, workers):
            (entries if "digest" in entry else rejected).append(entry)
            advance()
        tables = {"entries": (entries, ENTRIES), "rejected": (rejected, REJECTED)}
        return {name: pa.Table.from_pylist(*table) for name, table in tables.items()}

    (out / "index.json").unlink(missing_ok=True)
    shards = out / "shards"
    job = ShardJob(
        shards, len(images), SHARD_SIZE, lambda monitor: nullcontext([process]), unit=UNIT
    )
    num_shards = run_shards(job, monitor)
    _join(shards, num_shards, out)
    descriptors = _mapped(out / "descriptors.bin", np.uint8, DIMENSION)
    write_search(descriptors, out / "search.faiss", config)
    write_json(out / "index.json", {"format": FORMAT, "config": config.model_dump()})
    shutil.rmtree(shards, ignore_errors=True)


def _join(shards: Path, num_shards: int, out: Path) -> None:
    """Write the index's tables and binary files from its shards, without the features of an image
    whose pixels an earlier one has."""
    out.mkdir(parents=True, exist_ok=True)
    tables, known = [IMAGES.empty_table()], set[str]()
    with ExitStack() as stack:
        names = {"greys": "grey", "points": "points", "descriptors": "descriptors"}
        files = {
            column: stack.enter_context((out / f"{name}.bin").open("wb"))
            for name, column in names.items()
        }
        for number in range(num_shards):
            table = pq.read_table(shards / shard_file(number, "entries"))
            first = np.zeros(len(table), bool)  # of the images with its pixels
            for row, digest in enumerate(table["digest"].to_pylist()):
                first[row] = digest not in known
                known.add(digest)
            for column, file in files.items():
                part = table[column] if column == "grey" else table[column].filter(pa.array(first))
                file.writelines(value.as_buffer() for value in part)
            counts = table["num_features"].to_numpy() * first
            table = table.select(IMAGES.names)
            place = IMAGES.get_field_index("num_features")
            counted = table.set_column(place, IMAGES.field(place), [pa.array(counts, pa.int32())])
            tables.append(counted)
    pq.write_table(pa.concat_tables(tables), out / "images.parquet")
    rejected = read_shards(shards, "rejected", num_shards, REJECTED)
    pq.write_table(rejected, out / "rejected.parquet")


def rejection(image_id: str, error: BadImage) -> dict[str, Any]:
    """The REJECTED row of an image that cannot be read."""
    return {"image_id": image_id, "reason": error.reason, "detail": error.detail}


def _entry(image_id: str, source: Source, config: DedupConfig) -> dict[str, Any]:
    """The row of ENTRIES of an image, or of REJECTED when it cannot be read."""
    try:
        picture = describe(source, config)
    except BadImage as error:
        return rejection(image_id, error)
    _, grey = cv2.imencode(".jpg", picture.grey, [cv2.IMWRITE_JPEG_QUALITY, GREY_QUALITY])
    return {
        "image_id": image_id,
        "width": picture.size[0],
        "height": picture.size[1],
        "reduced_width": picture.grey.shape[1],
        "reduced_height": picture.grey.shape[0],
        "bytes_digest": picture.bytes_digest,
        "digest": picture.digest,
        "conclusive": picture.conclusive,
        "hash": perceptual_hash(picture.thumb),
        "num_features": len(picture.features),
        "grey_bytes": len(grey),
        "grey": grey.tobytes(),
        "points": picture.features.points.tobytes(),
        "descriptors": picture.features.descriptors.tobytes(),
    }


def _mapped(path: Path, dtype: type, width: int) -> np.ndarray:
    """The array [n, width] in `path`, memory-mapped; an empty file cannot be."""
    if path.stat().st_size == 0:
        return np.zeros((0, width), dtype)
    return np.memmap(path, dtype, "r").reshape(-1, width)


class ValIndex:
    """A loaded index; safe to search from several threads.

    `images` (IMAGES): those indexed; of each its column of that table in `ids`, `hashes` (uint64),
    `bytes_digests`, `conclusive` and `sizes` (int [images, 4]: width, height, reduced width,
    reduced height). `distinct`: bool [images], those with enough features to be told apart by them.
    `by_digest`: digest of pixels -> rows of the images with them. `rejected` (REJECTED): those that
    could not be read.
    """

    def __init__(self, path: Path, config: DedupConfig) -> None:
        self.config = config
        self.rejected = pq.read_table(path / "rejected.parquet")
        self.images = pq.read_table(path / "images.parquet")
        self.ids: list[str] = self.images["image_id"].to_pylist()
        self.hashes = self.images["hash"].to_numpy()
        self.bytes_digests: list[str] = self.images["bytes_digest"].to_pylist()
        self.conclusive = self.images["conclusive"].to_numpy()
        self.sizes = np.column_stack([self.images[name].to_numpy() for name in IMAGES.names[1:5]])
        self._greys = _mapped(path / "greys.bin", np.uint8, 1)
        self._points = _mapped(path / "points.bin", np.float32, 4)
        self._descriptors = _mapped(path / "descriptors.bin", np.uint8, DIMENSION)
        self._starts, self._grey_starts = (
            np.concatenate([[0], np.cumsum(self.images[name].to_numpy(), dtype=np.int64)])
            for name in ("num_features", "grey_bytes")
        )
        lengths = (len(self._points), len(self._descriptors), len(self._greys))
        if lengths != (self._starts[-1], self._starts[-1], self._grey_starts[-1]):
            raise ValueError("its files are not as long as its table says")
        self.by_digest: dict[str, list[int]] = {}
        digests: list[str] = self.images["digest"].to_pylist()
        for row, digest in enumerate(digests):
            self.by_digest.setdefault(digest, []).append(row)
        self._first = np.array([self.by_digest[digest][0] for digest in digests], np.int64)
        self.distinct = np.diff(self._starts)[self._first] >= config.min_features
        self._owners = np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self._starts))
        self._search = read_search(path / "search.faiss", self._descriptors, config)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def weak(self) -> list[str]:
        """Ids of the images with too few features to be distinguished by them."""
        return [self.ids[row] for row in np.flatnonzero(~self.distinct)]

    def grey(self, row: int) -> np.ndarray:
        """uint8 [reduced height, reduced width]: the reduced grey copy of one val image."""
        data = self._greys[self._grey_starts[row] : self._grey_starts[row + 1]]
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))

    def features(self, row: int) -> Features:
        """Features of one val image."""
        row = self._first[row]
        part = slice(self._starts[row], self._starts[row + 1])
        return Features(self._points[part], self._descriptors[part])

    def votes(
        self, states: Sequence[Features], num: int, least: float
    ) -> list[list[tuple[int, float]]]:
        """(row, vote) of the images that the features of each state give at least `least`
        votes: the first `num` of the first two states, a quarter as many of the others.

        A neighbour's vote is how much nearer it is than the furthest one found (the adaptive
        criterion of Jegou et al. 2011); an image gets at most one vote of each descriptor. What
        counts are the votes of one turn and zoom (weak geometric consistency, Jegou et al. 2008).
        The first of images with equal pixels stands for all.
        """
        k = min(self.config.num_neighbours, len(self._owners))
        asked = [state.part(num if i < 2 else num // 4) for i, state in enumerate(states)]
        if k == 0:
            return [[] for _ in states]
        queries = np.concatenate([state.descriptors for state in asked]).astype(np.float32)
        found = self._search(queries, k)
        ends = np.cumsum([len(state) for state in asked])[:-1]
        parts = zip(*(np.split(array, ends) for array in found), strict=True)
        by_state = (self._votes(state, *part) for state, part in zip(asked, parts, strict=True))
        return [
            list(zip(rows[enough].tolist(), votes[enough].tolist(), strict=True))
            for rows, votes in by_state
            for enough in ((votes >= least) & self.distinct[rows],)
        ]

    def _votes(
        self, features: Features, distances: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        distances[rows < 0] = np.nan  # too few in the probed cells
        limit = np.fmax.reduce(distances, axis=1, keepdims=True, initial=1.0)
        weights = np.nan_to_num(1 - CLOSE * distances / limit)
        owners, k = self._owners[rows], rows.shape[1]
        earlier = (owners[:, :, None] == owners[:, None, :]) & np.tri(k, k, -1, dtype=bool)
        query, place = np.nonzero((weights > FAINT) & ~earlier.any(axis=2))
        points, asking = self._points[rows[query, place]], features.points[query]
        turn = (points[:, 3] - asking[:, 3]) / TURN
        zoom = np.log2(points[:, 2] / asking[:, 2])
        return _strongest(owners[query, place], weights[query, place], zoom, turn)


def _strongest(
    owners: np.ndarray, weights: np.ndarray, zoom: np.ndarray, turn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(images, their votes): each vote counts in the four bins about its zoom and turn; an image
    gets those of its best bin."""
    low_zoom, low_turn = np.floor(zoom).astype(int), np.floor(turn).astype(int)
    keys = [
        (owners.astype(np.int64) * ZOOMS + (low_zoom + i) % ZOOMS) * TURNS + (low_turn + j) % TURNS
        for i in (0, 1)
        for j in (0, 1)
    ]
    bins, member = np.unique(np.concatenate(keys), return_inverse=True)
    totals = np.bincount(member, np.tile(weights, 4), minlength=len(bins))
    images, starts = np.unique(bins // (ZOOMS * TURNS), return_index=True)
    return images, np.maximum.reduceat(totals, starts) if len(starts) else totals


def load_index(path: Path) -> ValIndex:
    """The index that `build_index` left in the directory `path`. Raises UserError: there is no
    index, or one of another format, or a damaged one, or it cannot be read at the moment."""
    head = read_json(path / "index.json")
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise UserError(f"{path}: no index of format {FORMAT}; remove this folder and run again")
    try:
        return ValIndex(path, parse(DedupConfig, head["config"], str(path)))
    except (OSError, KeyError, ValueError, RuntimeError) as error:  # faiss raises the last
        if getattr(error, "errno", None) not in (None, errno.ENOENT):  # as of its rights
            raise UserError(f"{path}: the index cannot be read ({error}); run again") from error
        raise UserError(
            f"{path}: the index is damaged ({error}); remove this folder and run again"
        ) from error


def import_faiss() -> Any:
    """FAISS, imported late; its loader logs each variant for a processor that the wheel lacks."""
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    import faiss

    return faiss


def write_search(descriptors: np.ndarray, path: Path, config: DedupConfig) -> None:
    """Write the structure over `descriptors` (uint8 [n, DIMENSION]).

    Training runs on one thread, because faiss' k-means gives other cells with other thread counts.
    """
    faiss = import_faiss()
    if len(descriptors) <= max(config.max_exact, MIN_DESCRIPTORS):
        index = faiss.IndexScalarQuantizer(DIMENSION, faiss.ScalarQuantizer.QT_8bit_direct)
        index.is_trained = True  # bytes need no training, which faiss refuses on an empty set
    else:
        index = _trained(descriptors)
    _fill(index, descriptors)
    faiss.write_index(index, str(path))


def read_search(path: Path, descriptors: np.ndarray, config: DedupConfig) -> FindNearest:
    """(queries float32 [q, DIMENSION], k) -> (squared distances, rows or -1), both [q, k]."""
    faiss = import_faiss()
    index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    if index.ntotal != len(descriptors):
        raise ValueError(f"search.faiss holds {index.ntotal} descriptors of {len(descriptors)}")
    if hasattr(index, "nprobe"):
        index.nprobe = config.num_probes
    return index.search


def _fill(index: Any, descriptors: np.ndarray) -> None:
    for start in range(0, len(descriptors), PART):
        index.add(descriptors[start : start + PART].astype(np.float32))


def _trained(descriptors: np.ndarray) -> Any:
    """An empty inverted file whose cells and codes fit a sample of the descriptors."""
    faiss, num = import_faiss(), len(descriptors)
    num_cells = 2 ** round(np.log2(min(CELLS * np.sqrt(num), num / MIN_TRAINING)))
    graph = "_HNSW32" if num_cells > MAX_FLAT_CELLS else ""
    num_cells *= FINER if graph else 1
    index = faiss.index_factory(DIMENSION, f"IVF{num_cells}{graph},PQ{CODES}x4fs")
    inverted = faiss.extract_index_ivf(index)  # itself, as what it is; lives as long as `index`
    inverted.cp.niter, inverted.cp.max_points_per_centroid = 8, MIN_TRAINING
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    step = max(1, num // (MIN_TRAINING * num_cells))
    index.train(descriptors[::step].astype(np.float32))
    faiss.omp_set_num_threads(threads)
    return index
