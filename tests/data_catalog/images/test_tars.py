"""Tars read in place: every kind of member, damage of every kind named."""

import io
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.base.config import UserError
from data_catalog.images.collect import collect
from data_catalog.images.tars import TarImages, read_tar
from tests.support.damage import damaged

DATA = {"a.jpg": b"A" * 700, "deep/er/b.png": b"B" * 512, "readme.txt": b"no image"}


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(data))


def tar_of(members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in members.items():
            add(archive, name, data)
    return buffer.getvalue()


def images(path: Path) -> dict[str, bytes]:
    """Content of each image found, read at its offset."""
    whole, rows = path.read_bytes(), read_tar(path, with_contents=True).table.to_pylist()
    found = {row["name"]: whole[row["offset"] :][: row["size"]] for row in rows}
    digests = [sha256(data).digest()[:16] for data in found.values()]
    assert [row["content"] for row in rows] == digests
    return found


def passed_over(found: TarImages) -> dict[str, int]:
    return {entry.reason: entry.count for entry in found.passed_over}


def written(path: Path, data: bytes) -> TarImages:
    path.write_bytes(data)
    return read_tar(path, with_contents=False)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_found_at_their_offsets(tmp_path: Path, form: int) -> None:
    long = {} if form == tarfile.USTAR_FORMAT else {"d/" * 120 + "\u00e9" * 90 + ".jpg": b"L" * 9}
    found = written(tmp_path / "t.tar", tar_of(DATA | long, form))
    assert found.damaged == ()
    expected = {name: data for name, data in (DATA | long).items() if name != "readme.txt"}
    assert images(tmp_path / "t.tar") == expected


def test_the_last_of_one_name_counts_and_leading_dots_do_not(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for data in (b"old", b"new"):
            add(archive, "././a.jpg", data)
    found = written(tmp_path / "t.tar", buffer.getvalue())
    assert images(tmp_path / "t.tar") == {"a.jpg": b"new"}
    assert passed_over(found) == {"replaced": 1}


def test_joined_tars_are_all_read(tmp_path: Path) -> None:
    parts = [tar_of({f"{n}.jpg": bytes([n]) * 700}) for n in range(3)]
    found = written(tmp_path / "t.tar", b"".join([*parts, b"\0" * (3 << 20), tar_of(DATA)]))
    assert found.damaged == ()
    assert list(images(tmp_path / "t.tar")) == ["0.jpg", "1.jpg", "2.jpg", *list(DATA)[:2]]
    found = written(tmp_path / "t.tar", b"".join([*parts, b"no tar" * 400]))
    assert [reason for _, reason, _ in found.damaged] == ["damaged_tar"]
    assert len(found.table) == 3


def test_links_are_no_further_images(tmp_path: Path) -> None:
    buffer, hard, soft = io.BytesIO(), tarfile.LNKTYPE, tarfile.SYMTYPE
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        add(archive, "d/soft.jpg", type=soft, linkname="../a.jpg")
        add(archive, "a.jpg", b"A")
        add(archive, "d/hard.jpg", type=hard, linkname="a.jpg")
        add(archive, "twice.jpg", type=soft, linkname="d/soft.jpg")
        add(archive, "ring.jpg", type=soft, linkname="ring.jpg")
        add(archive, "out.jpg", type=soft, linkname="/etc/passwd")
        add(archive, "pipe.jpg", type=tarfile.FIFOTYPE)
    found = written(tmp_path / "t.tar", buffer.getvalue())
    assert images(tmp_path / "t.tar") == {"a.jpg": b"A"}
    assert passed_over(found) == {"same_file": 3, "special_file": 1}
    assert sorted(name for name, reason, _ in found.damaged if reason == "missing") == [
        "out.jpg",
        "ring.jpg",
    ]


def test_a_link_to_a_hidden_file_is_the_image(tmp_path: Path) -> None:
    """As git-annex and DVC keep images; a folder of the same files has the same rows."""
    buffer, hard, soft = io.BytesIO(), tarfile.LNKTYPE, tarfile.SYMTYPE
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        add(archive, ".store/1", b"\xff\xd8\xff1")
        add(archive, ".store/2.jpg", b"2")
        add(archive, ".store/text", b"text")
        add(archive, "a.jpg", type=soft, linkname=".store/1")
        add(archive, "d/b.jpg", type=hard, linkname=".store/2.jpg")
        add(archive, "d/c.jpg", type=soft, linkname="../a.jpg")
    found = written(tmp_path / "t.tar", buffer.getvalue())
    assert images(tmp_path / "t.tar") == {"a.jpg": b"\xff\xd8\xff1", "d/b.jpg": b"2"}
    assert passed_over(found) == {"hidden": 3, "same_file": 1}
    assert not found.damaged


def test_tars_within_tars_are_read_in_place(tmp_path: Path) -> None:
    inner = tar_of({"x.jpg": b"X" * 600})
    outer = {"n01.tar": inner, "n02.tar": tar_of({"n03.tar": inner}), "n04.tar": b"no tar" * 200}
    found = written(tmp_path / "t.tar", tar_of(outer | {"last.jpg": b"Z"}))
    assert images(tmp_path / "t.tar") == {
        "n01.tar/x.jpg": b"X" * 600,
        "n02.tar/n03.tar/x.jpg": b"X" * 600,
        "last.jpg": b"Z",
    }
    assert [(name, reason) for name, reason, _ in found.damaged] == [("n04.tar", "damaged_tar")]


def test_what_is_not_kept_in_one_piece_is_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        holes = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9000"}
        add(archive, "holes.jpg", b"1\n0\n512\n".ljust(512, b"\0") + b"H" * 512, pax_headers=holes)
        add(archive, "more.tar.gz", b"gz")
        add(archive, "a.jpg", b"A")
    found = written(tmp_path / "t.tar", buffer.getvalue())
    assert {name: reason for name, reason, _ in found.damaged} == {
        "holes.jpg": "sparse_member",
        "more.tar.gz": "compressed_tar",
    }
    assert images(tmp_path / "t.tar") == {"a.jpg": b"A"}


def no_end(data: bytes) -> bytes:
    return data.rstrip(b"\0").ljust(2560, b"\0")[: 512 + 1024 + 512 + 512]


def cut_within(data: bytes) -> bytes:
    return data[: 512 + 300]


def bad_header(data: bytes) -> bytes:
    at = data.index(b"deep/er/b.png")
    return data[:at] + b"\xff" * 200 + data[at + 200 :]


def negative_size(data: bytes) -> bytes:
    at = data.index(b"deep/er/b.png")
    header = bytearray(data[at : at + 512])
    header[124:136] = b"\xff" * 11 + b"\x00"  # base 256: -256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + 512 :]


@pytest.mark.parametrize("damage", [no_end, cut_within, bad_header, negative_size])
def test_damage_is_named_and_what_came_before_it_kept(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    whole = tar_of({"a.jpg": DATA["a.jpg"], "deep/er/b.png": DATA["deep/er/b.png"]})
    found = written(tmp_path / "t.tar", damage(whole))
    assert [(name, reason) for name, reason, _ in found.damaged] == [("", "damaged_tar")]
    assert "a.jpg" in found.table["name"].to_pylist()


@pytest.mark.parametrize("data", [b"", b"no tar" * 400, b"\0" * 100, bytes(range(256)) * 8])
def test_no_tar_is_damaged(tmp_path: Path, data: bytes) -> None:
    found = written(tmp_path / "t.tar", data)
    assert [reason for _, reason, _ in found.damaged] == ["damaged_tar"]
    assert len(found.table) == 0


FORMS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
TARS = [tar_of({"d/" * 60 + "ü.jpg": b"L"} | DATA, form)[:6144] for form in FORMS[1:]]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(TARS).flatmap(damaged))
def test_any_damage_gives_images_inside_the_tar(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.tar"
    found = written(path, data)
    names = found.table["name"].to_pylist()
    assert len(set(names)) == len(names)
    assert found.damaged or names or found.passed_over
    assert read_tar(path, with_contents=True).table["name"].to_pylist() == names
    for row in found.table.to_pylist():
        assert 0 <= row["offset"] <= row["offset"] + row["size"]
        assert row["offset"] + row["size"] <= len(data) or found.damaged  # ends within it


def test_a_collection_names_what_is_wrong(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    (pool / "good.tar").write_bytes(tar_of(DATA))
    (pool / "bad.tar").write_bytes(cut_within(tar_of(DATA)))
    (pool / "packed.tar.gz").write_bytes(b"gz")
    found = collect(pool, None)
    assert list(found.ids) == ["bad.tar/a.jpg", "good.tar/a.jpg", "good.tar/deep/er/b.png"]
    assert [(row["image_id"], row["reason"]) for row in found.damaged.to_pylist()] == [
        ("bad.tar", "damaged_tar"),
        ("packed.tar.gz", "compressed_tar"),
    ]
    assert found.table["content"][1].as_py() == sha256(DATA["a.jpg"]).digest()[:16]
    assert found.source(2) == found.find(["good.tar/deep/er/b.png"])["good.tar/deep/er/b.png"]
    with pytest.raises(UserError, match="is compressed, and tars are read in place; uncompress it"):
        collect(pool / "packed.tar.gz", None)


def test_an_id_twice_is_refused(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    (pool / "\\xff.jpg").write_bytes(b"x")
    (Path(str(pool)) / b"\xff.jpg".decode("utf-8", "surrogateescape")).write_bytes(b"x")
    with pytest.raises(UserError, match=r"is there twice, .*; rename or remove one"):
        collect(pool, None)
