"""Selection out of 14.2 million synthetic labels: equal to a full sort, in what time and memory?

    python benchmarks/selection.py --folder SCRATCH [--images 14200000]

Writes shards of topk labels (1.4 GB with all images) once; the columns that selection reads are the
same in all encodings. A tenth of the images is as sure of a class as float32 can say, a tenth of
the others has scores from a grid. Each way runs in a process of its own: ours, DuckDB's (where it
is installed) as it ranks in a window and as it keeps the smallest in heaps, and NumPy's sort of all
candidates. All have to select the same: the last column is a digest.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from data_catalog.base.files import atomic_path, sha256_file, write_table
from ppcls_core.labels.select import SELECTION, SelectConfig, select_store
from ppcls_core.labels.shard import Header, Origin, label_table, open_shards, write_labels
from ppcls_core.runtime.monitor import SilentMonitor

NUM_CLASSES, T, K, SHARD = 1000, 10, 4000, 32_768
HEADER = Header(Origin("synthetic", "synthetic"), NUM_CLASSES, "topk", k=T)
Way = Callable[[Path, Path], None]  # from a folder of shards to a selection's file


def synthetic_shard(number: int, num: int) -> pa.Table:
    """`num` labels: popular and rare classes, ten different ones an image, and equal scores."""
    rng = np.random.default_rng(number)
    first = np.minimum(rng.exponential(NUM_CLASSES / 4, num), NUM_CLASSES - 1).astype(np.int64)
    steps = rng.integers(1, NUM_CLASSES // T, (num, T - 1)).cumsum(1)
    classes = (first[:, None] + np.concatenate([np.zeros((num, 1), np.int64), steps], 1)) % 1000
    logprobs = -np.sort(rng.gamma(1.5, 2, (num, T)), axis=1)
    coarse, sure = rng.random(num) < 0.1, rng.random(num) < 0.1
    logprobs[coarse] = np.floor(logprobs[coarse] * 4) / 4
    logprobs[sure, 0] = 0
    rows = range(number * SHARD, number * SHARD + num)
    synsets = rng.integers(0, 21_841, num).tolist()
    ids = [f"n{s:08}/n{s:08}_{row}.JPEG" for s, row in zip(synsets, rows, strict=True)]
    template = label_table([], np.empty((0, NUM_CLASSES), np.float32), HEADER).schema
    lists = template.field("top_class").type, template.field("top_logprob").type
    flat = classes.astype(np.uint16).ravel(), logprobs.astype(np.float32).ravel()
    columns = {
        "image_id": pa.array(ids),
        "view": pa.array(np.zeros(num, np.int32)),
        "seed": pa.array(np.zeros(num, np.int64)),
        "top_class": pa.FixedSizeListArray.from_arrays(pa.array(flat[0]), type=lists[0]),
        "top_logprob": pa.FixedSizeListArray.from_arrays(pa.array(flat[1]), type=lists[1]),
        "entropy": pa.array(np.zeros(num, np.float32)),
        "tail_high": pa.array(np.full(num, -9, np.float32)),
    }
    return pa.table([columns[name] for name in template.names], schema=template)


def write_shards(folder: Path, num_images: int) -> None:
    """Those that are not there yet."""
    for number, start in enumerate(range(0, num_images, SHARD)):
        path = folder / f"shard-{number:05}.labels.parquet"
        if not path.exists():
            with atomic_path(path) as temporary:
                table = synthetic_shard(number, min(SHARD, num_images - start))
                write_labels(table, temporary)


def ours(folder: Path, out: Path) -> None:
    """What `ppcls select` does."""
    select_store(folder, SelectConfig(k=K, p=T), out, SilentMonitor())


def full_sort(folder: Path, out: Path) -> None:
    """All candidates of all images sorted by (class, -score, id); takes 12 GB."""
    ids, classes, scores = [], [], []
    for shard in open_shards(folder):
        for batch in shard.batches(["image_id", "top_class", "top_logprob"]):
            ids.append(batch["image_id"])
            classes.append(batch["top_class"].flatten().to_numpy())
            logprobs = batch["top_logprob"].flatten().to_numpy()
            scores.append(np.exp(logprobs.astype(np.float64)).astype(np.float32))
    every_id = pa.chunked_array(ids).cast(pa.large_string()).combine_chunks()
    rank = np.empty(len(every_id), np.int32)
    rank[np.array(pc.sort_indices(every_id))] = np.arange(len(every_id), dtype=np.int32)
    flat_class, flat_score = np.concatenate(classes), np.concatenate(scores)
    order = np.lexsort((np.repeat(rank, T), -flat_score, flat_class))
    starts = np.searchsorted(flat_class[order], np.arange(NUM_CLASSES + 1))
    best = np.concatenate([order[a : min(b, a + K)] for a, b in pairwise(starts)])
    columns = [every_id.take(pa.array(best // T)), flat_class[best], flat_score[best]]
    write_table(out, pa.table(columns, SELECTION.names).cast(SELECTION))


CANDIDATES = """
    select image_id, unnest(top_class)::int as class_id,
           exp(unnest(top_logprob)::double)::float as score
    from read_parquet('FOLDER/*.labels.parquet')
"""
WINDOW = f"""
    select image_id, class_id, score from ({CANDIDATES})
    qualify row_number() over (partition by class_id order by score desc, image_id) <= {K}
    order by class_id, score desc, image_id
"""
HEAPS = f"""
    select best.i as image_id, class_id, -best.s as score from (
        select class_id, unnest(min({{'s': -score, 'i': image_id}}, {K})) as best
        from ({CANDIDATES}) group by class_id)
    order by class_id, score desc, image_id
"""


def duckdb(query: str, threads: int, memory: str) -> Way:
    """`query` within `memory`."""

    def run(folder: Path, out: Path) -> None:
        from duckdb import connect

        with connect() as connection:
            connection.execute(f"set memory_limit = '{memory}'; set threads = {threads}")
            connection.execute("set preserve_insertion_order = false")
            connection.execute(f"set temp_directory = '{folder}/spilt'")
            sql = query.replace("FOLDER", str(folder))
            connection.execute(f"copy ({sql}) to '{out}' (format parquet, compression zstd)")

    return run


WAYS: dict[str, Way] = {
    "ours": ours,
    "DuckDB, window, 1 thread, 1 GB": duckdb(WINDOW, 1, "1GB"),
    "DuckDB, window, 2 threads, 1 GB": duckdb(WINDOW, 2, "1GB"),
    "DuckDB, heaps, 1 thread, 1 GB": duckdb(HEAPS, 1, "1GB"),
    "DuckDB, heaps, 1 thread, 8 GB": duckdb(HEAPS, 1, "8GB"),
    "NumPy, full sort": full_sort,
}


def run_alone(name: str, folder: Path) -> list[str]:
    """How the way did in a process of its own: a row of the table."""
    out = folder / "selection.parquet"
    out.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--folder", str(folder), "--way", name]
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = f"{time.perf_counter() - begun:.1f}"
    if done.returncode:
        errors = [
            line for line in done.stderr.splitlines() if "Error" in line or "Exception" in line
        ]
        return [name, seconds, "", "", errors[0][:70] if errors else "failed"]
    table = pq.read_table(out).select(SELECTION.names).cast(SELECTION)
    write_table(out, table.combine_chunks())
    return [name, seconds, f"{int(done.stdout):,}", f"{len(table):,}", sha256_file(out)[:12]]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the shards go")
    parser.add_argument("--images", type=int, default=14_200_000)
    parser.add_argument("--way", choices=WAYS, help="this one alone; prints its peak memory in MiB")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    if arguments.way:
        WAYS[arguments.way](folder, folder / "selection.parquet")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_shards(folder, arguments.images)
    size = sum(path.stat().st_size for path in folder.glob("*.labels.parquet"))
    title = f"{arguments.images:,} images x {T} classes, {size / 1e9:.2f} GB, k = {K:,}"
    table = Table("", "seconds", "peak MiB", "rows", "digest", title=title)
    for name in WAYS:
        table.add_row(*run_alone(name, folder))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
