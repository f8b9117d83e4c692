from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_catalog.base.config import UserError
from data_catalog.images.columns import Images, are_same, image_table, read_images, write_images


def images(num=5, root="set"):
    paths = [f"a b/ü{i}.jpg" for i in range(num)]
    labels = [None if i == 1 else i % 3 for i in range(num)]
    table = image_table(paths, [-1, *range(1, num)], root, label=labels)
    return Images(table, {root: "/data"}, ("x", "Größe", "z"))


def test_round_trip(tmp_path):
    write_images(tmp_path / "m.arrow", images())
    read = read_images(tmp_path / "m.arrow", {})
    assert read.table.equals(images().table)
    assert read.classes == ("x", "Größe", "z")


def test_equal_content_gives_equal_bytes(tmp_path):
    whole = images()
    halves = pa.concat_tables([whole.table.slice(0, 2), whole.table.slice(2)])
    write_images(tmp_path / "a", whole)
    write_images(tmp_path / "b", Images(halves.combine_chunks(), {}, whole.classes))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_labels_and_ids():
    assert images().labels.tolist() == [0, -1, 2, 0, 1]
    assert images().labels.dtype == np.int32
    assert images().ids[1] == "a b/ü1.jpg"
    assert len(images()) == 5


def test_take_by_position_and_by_mask():
    whole = images()
    assert whole.take([4, 0]).ids == [whole.ids[4], whole.ids[0]]
    assert whole.take(np.array([True, False, False, False, True])).ids == [
        whole.ids[0],
        whole.ids[4],
    ]
    assert len(whole.take([])) == 0
    assert whole.take([0]).classes == whole.classes


def test_sources():
    assert images().source(0) == images().sources()[0] == Path("/data/a b/ü0.jpg")
    with pytest.raises(UserError, match=r"'set'.*\['other'\]"):
        replace(images(), roots={"other": "/data"}).source(0)


def test_empty_images(tmp_path):
    write_images(tmp_path / "m", images().take([]))
    assert len(read_images(tmp_path / "m", {})) == 0
    assert read_images(tmp_path / "m", {}).labels.tolist() == []


def test_unreadable(tmp_path):
    (tmp_path / "text").write_text("no parquet")
    with pytest.raises(UserError, match="cannot be read as images"):
        read_images(tmp_path / "text", {})
    with pytest.raises(UserError, match="cannot be read as images"):
        read_images(tmp_path / "absent", {})
    with pa.ipc.new_file(str(tmp_path / "other"), pa.schema([("a", pa.int64())])):
        pass
    with pytest.raises(UserError, match="expected"):
        read_images(tmp_path / "other", {})


def test_the_same_are_those_of_equal_id_and_content():
    def of(**contents: bytes | None) -> Images:
        column = pa.array([c and c * 16 for c in contents.values()], pa.binary(16))
        return Images(image_table(list(contents), [1] * len(contents), content=column))

    mine = of(a=b"1", b=b"2", c=None, d=b"4", e=b"5")
    others = of(e=b"5", c=None, b=b"3", a=b"1")
    assert are_same(mine, others).tolist() == [True, False, False, False, True]
    assert are_same(mine, of()).tolist() == [False] * 5
    assert are_same(of(), mine).tolist() == []
