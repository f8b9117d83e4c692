"""Nearest neighbours among all descriptors of the val images: exact for few, else by inverted file.

The inverted file keeps CODES / 2 bytes a descriptor and is memory-mapped. Where faiss finds a GPU,
that compares with all descriptors in half precision, in which bytes are exact.
"""

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.features import DIMENSION

CELLS = 0.5  # x the root of the number of descriptors: cells of the inverted file
MIN_TRAINING = 64  # descriptors a cell that it is fitted to
MIN_DESCRIPTORS = 1024  # with fewer the codes cannot be fitted
MAX_FLAT_CELLS = 512  # beyond, a graph finds the nearest cells, so that more of them
FINER = 4  # x as many cost no more
CODES = 32  # of 4 bits a descriptor, whose distances are then approximate
PART = 1 << 18  # descriptors of which float copies are made at a time

FindNearest = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def write_search(descriptors: np.ndarray, path: Path, config: DedupConfig) -> None:
    """Write the structure over `descriptors` (uint8 [n, DIMENSION]).

    Training runs on one thread, because faiss' k-means gives other cells with other thread counts.
    """
    import faiss

    if len(descriptors) <= max(config.max_exact, MIN_DESCRIPTORS):
        index = faiss.IndexScalarQuantizer(DIMENSION, faiss.ScalarQuantizer.QT_8bit_direct)
        index.is_trained = True  # bytes need no training, which faiss refuses on an empty set
    else:
        index = _trained(descriptors)
    _fill(index, descriptors)
    faiss.write_index(index, str(path))


def read_search(path: Path, descriptors: np.ndarray, config: DedupConfig) -> FindNearest:
    """(queries float32 [q, DIMENSION], k) -> (squared distances, rows or -1), both [q, k]."""
    import faiss

    if faiss.get_num_gpus() and len(descriptors):
        return _on_gpu(descriptors)
    index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    if index.ntotal != len(descriptors):
        raise ValueError(f"search.faiss holds {index.ntotal} descriptors of {len(descriptors)}")
    if hasattr(index, "nprobe"):
        index.nprobe = config.num_probes
    return index.search


def _on_gpu(descriptors: np.ndarray) -> FindNearest:
    """Exact search on the first GPU, one thread at a time, as faiss wants it."""
    import faiss

    options = faiss.GpuClonerOptions()
    options.useFloat16 = True  # 6.4 GB for the 25 million of ImageNet's val images
    resources, lock = faiss.StandardGpuResources(), Lock()
    index = faiss.index_cpu_to_gpu(resources, 0, faiss.IndexFlatL2(DIMENSION), options)
    _fill(index, descriptors)

    def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        with lock:
            return index.search(queries, k)

    return search


def _fill(index: Any, descriptors: np.ndarray) -> None:
    for start in range(0, len(descriptors), PART):
        index.add(descriptors[start : start + PART].astype(np.float32))


def _trained(descriptors: np.ndarray) -> Any:
    """An empty inverted file whose cells and codes fit a sample of the descriptors."""
    import faiss

    num = len(descriptors)
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
