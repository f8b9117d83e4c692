"""Photographs in formats that nothing here reads are told as such, wherever they lie."""

import tarfile

import pytest

from data_catalog.images.collect import collect
from data_catalog.images.formats import kind_of_bytes
from ppcls_core.data.decode import BadImage, decode
from tests.support.images import write_jpeg

HEADS = {
    "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
    "jxl": b"\xff\x0a\xfa\x7f\x90\x08",
    "jxl in a box": b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ",
    "jp2": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ",
}


@pytest.mark.parametrize("name", HEADS)
def test_an_unread_format_is_known_by_its_first_bytes(name):
    assert kind_of_bytes(HEADS[name] + bytes(500)) == "unread_format"
    with pytest.raises(BadImage, match=r"not_an_image: HEIC, AVIF, .* not read"):
        decode(HEADS[name] + bytes(500))


def test_a_film_is_none():
    assert kind_of_bytes(b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41") == "not_an_image"


def test_they_are_counted_apart_from_what_is_no_image(tmp_path):
    folder = tmp_path / "phone"
    folder.mkdir()
    (folder / "IMG_1.HEIC").write_bytes(HEADS["heic"])
    (folder / "notes.txt").write_text("notes")
    write_jpeg(folder / "a.jpg", 1)
    with tarfile.open(folder / "more.tar", "w") as archive:
        archive.add(folder / "IMG_1.HEIC", "IMG_2.HEIC")
        archive.add(folder / "a.jpg", "b.jpg")
    images = collect(folder, None)
    assert sorted(images.ids) == ["a.jpg", "more.tar/b.jpg"]
    found = {entry.reason: entry.count for entry in images.passed_over}
    assert found == {"unread_format": 2, "not_an_image": 1, "tar": 1}
