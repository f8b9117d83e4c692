"""The labelled images and the selected ones make one list, no image twice."""

import pyarrow as pa

from data_catalog.images.manifest import SCHEMA, Manifest
from tasks.stages.select import merge


def images(*rows):
    """(image id, root, path, label) of each."""
    columns = zip(*rows, strict=True)
    ids, root, path, label = columns
    arrays = [ids, root, path, [1] * len(rows), label]
    return Manifest(pa.table([pa.array(a, t) for a, t in zip(arrays, SCHEMA.types, strict=True)],
        schema=SCHEMA), ("cat", "dog"))  # fmt: skip


LABELLED = images(("a", "train", "a.jpg", 1), ("b", "train", "b.jpg", 0))


def test_selected_images_follow_without_label_in_the_pool_s_order():
    pool = images(
        ("z", "pool", "z.jpg", 1), ("y", "pool", "y.jpg", 0), ("x", "pool", "x.jpg", None)
    )
    merged = merge(LABELLED, pool, pa.chunked_array([["x", "z"], ["x"]]))
    assert merged.ids == ["a", "b", "z", "x"]
    assert merged.table["label"].to_pylist() == [1, 0, None, None]
    assert merged.classes == LABELLED.classes


def test_neither_a_file_nor_an_id_is_in_it_twice():
    pool = images(
        ("other name", "train", "b.jpg", None),  # a labelled file
        ("a", "pool", "a.jpg", None),  # a labelled id
        ("c", "pool", "b.jpg", None),  # a labelled path under another root
    )
    merged = merge(LABELLED, pool, pa.chunked_array([["other name", "a", "c"]]))
    assert merged.ids == ["a", "b", "c"]


def test_nothing_selected():
    merged = merge(LABELLED, images(("z", "pool", "z.jpg", 1)), pa.chunked_array([], pa.string()))
    assert merged.table.equals(LABELLED.table)
