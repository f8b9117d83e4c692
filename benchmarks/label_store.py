"""Soft labels: bytes, speed, and what the encodings do to the published loss.

    OMP_NUM_THREADS=1 python benchmarks/label_store.py [--images 200000] [--folder SCRATCH]

Labels of 1,000 classes are written in shards of 32,768 and read back at random, 256 at a time: once
from the files as they lie on the disk, once from memory. All on one core. Then the largest
deviations over many batches of 256 images, by teacher and student, as
tests/ppcls_core/labels/test_label_encoding.py proves them for `int8`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from ppcls_core.inference.softmax import log_softmax
from ppcls_core.labels.encoding import EncodingName, decode, encode
from ppcls_core.labels.shard import Header, Origin, label_table, write_labels
from ppcls_core.labels.store import LabelStore

NUM_CLASSES, SHARD, BATCH = 1000, 32_768, 256
ENCODINGS: tuple[tuple[EncodingName, int], ...] = (
    ("int8", 16), ("fp16", 16), ("topk", 16), ("topk", 100),
)  # fmt: skip
TEACHERS = {  # spread of the logits, lead of the best class up to
    "flat": (0.5, 2.0),
    "middle": (2.0, 10.0),
    "sharp": (3.0, 25.0),
}
STUDENTS = {  # share of the teacher's logits, noise
    "fresh": (0.0, 0.3),
    "sure of other classes": (0.0, 2.0),
    "halfway": (0.5, 0.5),
    "off by 1": (1.0, 1.0),
    "off by 0.3": (1.0, 0.3),
}


def teacher_logits(rng: np.random.Generator, num: int, kind: str, classes: int) -> np.ndarray:
    """float32 [num, classes]."""
    spread, lead = TEACHERS[kind]
    logits = rng.normal(0, spread, (num, classes))
    logits[np.arange(num), rng.integers(0, classes, num)] += rng.uniform(0, lead, num)
    return logits.astype(np.float32)


def tables(num_images: int, header: Header) -> Iterator[tuple[pa.Table, float]]:
    """(a shard's table, seconds that encoding took)."""
    logits = teacher_logits(np.random.default_rng(0), 16 * BATCH, "middle", NUM_CLASSES)
    for first in range(0, num_images, SHARD):
        parts, seconds = [], 0.0
        for start in range(first, min(first + SHARD, num_images), BATCH):
            rows = range(start, min(start + BATCH, num_images))
            names = [name(row) for row in rows]
            begun = time.perf_counter()
            parts.append(label_table(names, logits[np.array(rows) % len(logits)], header))
            seconds += time.perf_counter() - begun
        yield pa.concat_tables(parts), seconds


def name(row: int) -> str:
    """An id as ImageNet's are."""
    return f"n{row % 21_841:08}/n{row % 21_841:08}_{row}.JPEG"


def measure(folder: Path, num_images: int, header: Header) -> list[str]:
    """A row of the table."""
    encoding = writing = 0.0
    paths = []
    for number, (table, seconds) in enumerate(tables(num_images, header)):
        paths.append(folder / f"shard-{number:05}.labels.parquet")
        begun = time.perf_counter()
        write_labels(table, paths[-1])
        writing, encoding = writing + time.perf_counter() - begun, encoding + seconds
    size = sum(path.stat().st_size for path in paths) / num_images
    for path in paths:
        forget(path)
    begun = time.perf_counter()
    store = LabelStore.open(folder, origin=header.origin)
    opening = time.perf_counter() - begun
    order = np.random.default_rng(1).permutation(num_images)[: 400 * BATCH].reshape(-1, BATCH)
    batches = [[name(row) for row in rows] for rows in order.tolist()]
    cold, warm = random_reads(store, batches[:50]), random_reads(store, batches * 2)
    begun = time.perf_counter()
    columns = ("image_id", "view", "top_class", "top_logprob")
    num_read = sum(batch.num_rows for shard in store.shards for batch in shard.batches(columns))
    scanning = time.perf_counter() - begun
    rates = (num_images / encoding, num_images / writing, cold, warm, num_read / scanning)
    return [f"{size:,.0f}", *(f"{rate:,.0f}" for rate in rates), f"{opening:.2f}"]


def random_reads(store: LabelStore, batches: list[list[str]]) -> float:
    """Rows a second."""
    begun = time.perf_counter()
    for names in batches:
        store.logprobs(names)
    return sum(map(len, batches)) / (time.perf_counter() - begun)


def forget(path: Path) -> None:
    """Let the kernel drop what it keeps of the file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def published_loss(student: np.ndarray, teacher: np.ndarray) -> tuple[float, np.ndarray]:
    """(mean loss of a batch, its gradient for the student's logits)."""
    (log_p, log_q), num = (log_softmax(logits) for logits in (student, teacher)), len(student)
    p, q = np.exp(log_p), np.exp(log_q)
    divergence = (p * (log_p - log_q)).sum(-1, keepdims=True)
    loss = 0.5 * ((p - q) * (log_p - log_q)).sum(-1).mean()
    return float(loss), 0.5 * (p - q + p * (log_p - log_q - divergence)) / num


def deviations(kind: str, student: str, num_batches: int) -> list[str]:
    """A row of the table: the largest difference of the loss and 1 - cosine of each encoding."""
    worst = np.zeros((len(ENCODINGS), 2))
    for seed in range(num_batches):
        rng, (share, noise) = np.random.default_rng(seed), STUDENTS[student]
        logits = teacher_logits(rng, BATCH, kind, NUM_CLASSES)
        seen = share * logits + rng.normal(0, noise, logits.shape)
        loss, gradient = published_loss(seen, logits.astype(np.float64))
        for number, (encoding, k) in enumerate(ENCODINGS):
            back = decode(encode(logits, encoding, k), encoding, NUM_CLASSES)
            other, moved = published_loss(seen, back.astype(np.float64))
            norms = np.linalg.norm(gradient) * np.linalg.norm(moved)
            found = abs(other - loss), 1 - (gradient * moved).sum() / norms
            worst[number] = np.maximum(worst[number], found)
    return [kind, student, *(f"{loss:.0e} {cosine:.0e}" for loss, cosine in worst)]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--batches", type=int, default=20, help="of each row of deviations")
    parser.add_argument("--folder", type=Path, help="where the labels go for the time")
    arguments = parser.parse_args()
    console, titles = Console(width=120), [f"{name} {k}" for name, k in ENCODINGS]
    rates = ("encode", "write", "read, disk", "read, memory", "scan for selection")
    table = Table("", "bytes", *rates, "open, s", title="Images a second, one core")
    for title, (encoding, k) in zip(titles, ENCODINGS, strict=True):
        folder = Path(tempfile.mkdtemp(dir=arguments.folder))
        header = Header(Origin("synthetic", "synthetic"), NUM_CLASSES, encoding, k=k)
        table.add_row(title, *measure(folder, arguments.images, header))
        shutil.rmtree(folder)
    console.print(table)
    table = Table("teacher", "student", *titles, title="Batches of 256: loss, 1 - cosine")
    for kind in TEACHERS:
        for student in STUDENTS:
            table.add_row(*deviations(kind, student, arguments.batches))
    console.print(table)


if __name__ == "__main__":
    main()
