from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.base.config import UserError
from data_catalog.images.manifest import SCHEMA, Manifest, read_manifest, write_manifest


def manifest(num=5, root="set"):
    paths = [f"a b/ü{i}.jpg" for i in range(num)]
    labels = [None if i == 1 else i % 3 for i in range(num)]
    table = pa.table([paths, [root] * num, paths, [-1, *range(1, num)], labels], schema=SCHEMA)
    return Manifest(table, ("x", "Größe", "z"))


def test_round_trip(tmp_path):
    write_manifest(tmp_path / "m.parquet", manifest())
    read = read_manifest(tmp_path / "m.parquet")
    assert read.table.equals(manifest().table)
    assert read.classes == ("x", "Größe", "z")


def test_equal_content_gives_equal_bytes(tmp_path):
    whole = manifest()
    halves = pa.concat_tables([whole.table.slice(0, 2), whole.table.slice(2)])
    write_manifest(tmp_path / "a", whole)
    write_manifest(tmp_path / "b", Manifest(halves.combine_chunks(), whole.classes))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_labels_and_ids():
    assert manifest().labels.tolist() == [0, -1, 2, 0, 1]
    assert manifest().labels.dtype == np.int32
    assert manifest().ids[1] == "a b/ü1.jpg"
    assert len(manifest()) == 5


def test_take_by_position_and_by_mask():
    whole = manifest()
    assert whole.take([4, 0]).ids == [whole.ids[4], whole.ids[0]]
    assert whole.take(np.array([True, False, False, False, True])).ids == [
        whole.ids[0],
        whole.ids[4],
    ]
    assert len(whole.take([])) == 0
    assert whole.take([0]).classes == whole.classes


def test_resolve():
    assert manifest().resolve({"set": "/data"})[0] == Path("/data/a b/ü0.jpg")
    with pytest.raises(UserError, match=r"\['set'\].*\['other'\]"):
        manifest().resolve({"other": "/data"})


def test_empty_manifest(tmp_path):
    write_manifest(tmp_path / "m", manifest().take([]))
    assert len(read_manifest(tmp_path / "m")) == 0
    assert read_manifest(tmp_path / "m").labels.tolist() == []


def test_unreadable(tmp_path):
    (tmp_path / "text").write_text("no parquet")
    with pytest.raises(UserError, match="cannot be read as a manifest"):
        read_manifest(tmp_path / "text")
    with pytest.raises(UserError, match="cannot be read as a manifest"):
        read_manifest(tmp_path / "absent")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other")
    with pytest.raises(UserError, match="expected"):
        read_manifest(tmp_path / "other")
