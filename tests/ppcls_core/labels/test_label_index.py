"""The index finds every row, also where hashes are equal."""

import numpy as np
import pyarrow as pa
import pytest

from ppcls_core.labels import store
from ppcls_core.labels.store import Index


def batch(*rows):
    """Rows of (image id, view)."""
    ids, views = zip(*rows, strict=True) if rows else ((), ())
    return pa.record_batch(
        [pa.array(ids, pa.string()), pa.array(views, pa.int32())], ["image_id", "view"]
    )


def test_an_image_with_its_views_together_is_one_entry():
    together = batch(*((image_id, view) for image_id in "abc" for view in range(10)))
    assert len(Index.of([together]).row) == 3
    apart = batch(*((image_id, view) for view in range(10) for image_id in "abc"))
    assert len(Index.of([apart]).row) == 30
    for batches in ([together], [apart], [together[:7], together[7:]]):
        found = Index.of(batches).rows(["b"] * 10, np.arange(10))
        rows = pa.Table.from_batches(batches).take(pa.array(found))
        assert rows["image_id"].to_pylist() == ["b"] * 10
        assert rows["view"].to_pylist() == list(range(10))


def test_bytes_of_an_entry():
    entries = Index.of([batch(("a", 0), ("b", 0))])
    arrays = (entries.hash, entries.check, entries.view, entries.size, entries.row)
    assert sum(array.itemsize for array in arrays) == 28


def test_images_of_equal_hash_are_told_apart(monkeypatch):
    hashes = store._hashes

    def colliding(ids):
        return np.full(len(ids), 7, np.int64), hashes(ids)[1]

    monkeypatch.setattr(store, "_hashes", colliding)
    rows = [(image_id, view) for image_id in "dacb" for view in (0, 1, 5)]
    found = Index.of([batch(*rows)])
    assert found.first_repeated() is None
    for number, (image_id, view) in enumerate(rows):
        assert found.rows([image_id], np.array([view])).tolist() == [number]
    assert found.rows(["e", "a"], np.array([0, 2])).tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("rows", "again"),
    [
        ([("a", 0), ("b", 0), ("a", 1)], False),
        ([("a", 0), ("b", 0), ("a", 0)], True),
        ([("a", 0), ("a", 1), ("a", 2), ("b", 0), ("a", 1)], True),
        ([("a", 5), ("a", 4), ("a", 3)], False),
        ([("a", 5), ("a", 5)], True),
        ([], False),
    ],
)
def test_a_view_that_is_there_twice_is_found(rows, again):
    assert (Index.of([batch(*rows)]).first_repeated() is not None) == again
