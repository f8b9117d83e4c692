"""The labelled images and the selected ones make one list, no image twice."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.images.columns import SCHEMA, Images
from tasks.stages.select import merge


def images(*rows):
    """(image id, root, path, label) of each."""
    columns = zip(*rows, strict=True)
    ids, root, path, label = columns
    paths = [name.encode() for name in path]
    columns = (ids, root, paths, [None] * len(rows), [1] * len(rows), label, [None] * len(rows))
    kinds = [pa.string(), pa.string(), *SCHEMA.types[2:]]
    arrays = [pa.array(c, kind) for c, kind in zip(columns, kinds, strict=True)]
    return Images(pa.table(arrays, SCHEMA.names).cast(SCHEMA), {}, ("cat", "dog"))


LABELLED = images(("a", "train", "a.jpg", 1), ("b", "train", "b.jpg", 0))


def chosen(pool, *ids):
    return pc.is_in(pool.table["image_id"], pa.array(ids, pa.string()))


def test_selected_images_follow_without_label_in_the_pool_s_order():
    pool = images(
        ("z", "pool", "z.jpg", 1), ("y", "pool", "y.jpg", 0), ("x", "pool", "x.jpg", None)
    )
    merged = merge(LABELLED, pool, chosen(pool, "x", "z", "x"))
    assert merged.ids == ["a", "b", "z", "x"]
    assert merged.table["label"].to_pylist() == [1, 0, None, None]
    assert merged.classes == LABELLED.classes


def test_a_copy_of_a_labelled_image_is_not_added():
    """By its bytes, whatever its name; where they are not known nothing is said to be a copy."""

    def of_contents(images, *contents):
        column = pa.array(contents, SCHEMA.field("content").type)
        position = SCHEMA.get_field_index("content")
        return replace(images, table=images.table.set_column(position, "content", column))

    rows = [(name, "pool", f"{name}.jpg", None) for name in "xyz"]
    pool = of_contents(images(*rows), b"1" * 16, b"3" * 16, None)
    labelled = of_contents(LABELLED, None, b"1" * 16)
    assert merge(labelled, pool, chosen(pool, "x", "y", "z")).ids == ["a", "b", "y", "z"]


def test_neither_a_file_nor_an_id_is_in_it_twice():
    pool = images(
        ("other name", "train", "b.jpg", None),  # a labelled file
        ("a", "pool", "a.jpg", None),  # a labelled id
        ("c", "pool", "b.jpg", None),  # a labelled path under another root
    )
    merged = merge(LABELLED, pool, chosen(pool, "other name", "a", "c"))
    assert merged.ids == ["a", "b", "c"]


def test_nothing_selected():
    pool = images(("z", "pool", "z.jpg", 1))
    merged = merge(LABELLED, pool, chosen(pool))
    assert merged.table.to_pylist() == LABELLED.table.to_pylist()
