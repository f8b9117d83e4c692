"""How stages read the image sets and tables that other stages left; free of Paddle."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.base.files import read_json
from data_catalog.images.columns import Images, Roots, read_images
from tasks.run.stage import Work


def input_path(work: Work, name: str) -> Path:
    """The file `stage/file` of an earlier stage."""
    stage, _, file = name.partition("/")
    return work.inputs[stage].path(file)


def roots(work: Work) -> Roots:
    """Where the images of each root lie on this machine; those of a generated set in the store."""
    recorded = read_json(input_path(work, "data/roots.json"))
    return {name: str(work.inputs["data"].directory / path) for name, path in recorded.items()}


def images(work: Work, name: str) -> Images:
    """The images of the file `stage/file`."""
    return read_images(input_path(work, name), roots(work))


def table(work: Work, name: str) -> pa.Table:
    """The Parquet table `stage/file`."""
    return pq.read_table(input_path(work, name))


def num_classes(work: Work) -> int:
    """Number of classes of the labelled set."""
    return len(images(work, "data/train.arrow").classes)
