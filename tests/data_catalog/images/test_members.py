"""Lists that name members of tars."""

import io
import tarfile

import numpy as np

from data_catalog.images.collect import collect, find, headers_only
from data_catalog.images.columns import Member, read_images, write_images
from tests.support.images import write_jpeg


def write_tar(path, names):
    """A tar of distinct images; `path` -> content by name."""
    contents = {}
    with tarfile.open(path, "w") as archive:
        for number, name in enumerate(names):
            write_jpeg(path.parent / "one.jpg", number)
            contents[name] = (path.parent / "one.jpg").read_bytes()
            info = tarfile.TarInfo(name)
            info.size = len(contents[name])
            archive.addfile(info, io.BytesIO(contents[name]))
    (path.parent / "one.jpg").unlink()
    return contents


def listed(folder, text):
    (folder / "list.txt").write_text(text)
    return find(folder / "list.txt", folder, headers_only, lambda more: None)


def test_members_are_found_in_the_list_s_order(tmp_path):
    """Beside files, of two tars by turns, and one whose tar or name is not there."""
    first = write_tar(tmp_path / "a.tar", ["x/1.jpg", "x/2.jpg", "3.jpg"])
    second = write_tar(tmp_path / "b.tar", ["1.jpg"])
    write_jpeg(tmp_path / "file.jpg", 9)
    names = ["a.tar/3.jpg", "b.tar/1.jpg", "file.jpg", "a.tar/x/1.jpg", "a.tar/no", "c.tar/1.jpg"]
    images = listed(tmp_path, "".join(f"{n} {i}\n" for i, n in enumerate(names))).images
    assert list(images.ids) == names
    assert images.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert images.table["size"].to_pylist()[4:] == [-1, -1]
    contents = [first["3.jpg"], second["1.jpg"], None, first["x/1.jpg"]]
    for source, content in zip(images.sources([0, 1, 2, 3]), contents, strict=True):
        if content is None:
            assert source == tmp_path / "file.jpg"
            continue
        assert isinstance(source, Member)
        raw = source.archive.read_bytes()
        assert raw[source.offset : source.offset + source.size] == content


def test_a_list_of_members_is_the_set_that_the_tar_holds(tmp_path):
    names = [f"{number}.jpg" for number in range(5)]
    write_tar(tmp_path / "a.tar", names)
    whole = collect(tmp_path / "a.tar", tmp_path / "cache")
    order = np.random.default_rng(0).permutation(5)
    (tmp_path / "list.txt").write_text("".join(f"a.tar/{names[n]} {n}\n" for n in order))
    images = collect(tmp_path / "list.txt", tmp_path / "cache")
    write_images(tmp_path / "images.arrow", images)
    again = read_images(tmp_path / "images.arrow", images.roots)
    for name in ("image_id", "path", "offset", "size", "content"):
        assert again.table[name].to_pylist() == whole.take(order).table[name].to_pylist()


def test_a_damaged_tar_of_a_list_is_told(tmp_path):
    write_tar(tmp_path / "a.tar", ["1.jpg", "2.jpg"])
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:600])
    images = listed(tmp_path, "a.tar/1.jpg 0\na.tar/2.jpg 1\n").images
    assert [row["image_id"] for row in images.damaged.to_pylist()] == ["a.tar"]
    assert images.table["size"].to_pylist()[1] == -1


def test_a_tar_whose_name_no_file_can_have_is_not_there(tmp_path):
    name = f"{'a' * 300}.tar/1.jpg"
    images = listed(tmp_path, f"{name} 0\n").images
    assert (list(images.ids), images.table["size"].to_pylist()) == ([name], [-1])
