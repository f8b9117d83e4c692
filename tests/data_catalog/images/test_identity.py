"""Contents are read once, and again when a file changes."""

import logging
import os
import tarfile
import time
from pathlib import Path

import pytest

from data_catalog.images import identity
from data_catalog.images.collect import collect
from data_catalog.images.identity import content_digest


@pytest.fixture
def pool(tmp_path):
    """Two files and a tar of two, older than what may still change unseen."""
    folder = tmp_path / "pool"
    folder.mkdir()
    for name, data in (("a.bmp", b"aaaa"), ("b.bmp", b"bbbb")):
        (folder / name).write_bytes(data)
    with tarfile.open(folder / "t.tar", "w") as archive:
        archive.add(folder / "a.bmp", "x.bmp")
        archive.add(folder / "b.bmp", "y.bmp")
    return folder


@pytest.fixture
def opened(monkeypatch):
    """Names of the files of which the content is read, tars among them."""
    names: list[str] = []
    file_content, read_tar = identity._file_content, identity.read_tar

    def counted_file(path: bytes) -> bytes | None:
        names.append(os.fsdecode(path.rpartition(b"/")[2]))
        return file_content(path)

    def counted_tar(path: Path, **options: bool) -> identity.TarImages:
        names.append(path.name)
        return read_tar(path, **options)

    monkeypatch.setattr(identity, "_file_content", counted_file)
    monkeypatch.setattr(identity, "read_tar", counted_tar)
    return names


def digest(pool, cache):
    return content_digest(collect(pool, cache))


def test_unchanged_files_are_not_read_again(pool, opened, tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "RACY", -(10**15))  # none is too young
    first = collect(pool, tmp_path / "cache")
    assert sorted(opened) == ["a.bmp", "b.bmp", "t.tar"]
    assert first.ids == ["a.bmp", "b.bmp", "t.tar/x.bmp", "t.tar/y.bmp"]
    opened.clear()
    again = collect(pool, tmp_path / "cache")
    assert opened == []
    assert again.table.equals(first.table)
    (pool / "b.bmp").write_bytes(b"cccc")
    assert digest(pool, tmp_path / "cache") != content_digest(first)
    assert opened == ["b.bmp"]


def test_what_changed_just_now_is_read_again(pool, opened, tmp_path):
    before = digest(pool, tmp_path / "cache")
    state = (pool / "a.bmp").stat()
    (pool / "a.bmp").write_bytes(b"zzzz")
    os.utime(pool / "a.bmp", ns=(state.st_atime_ns, state.st_mtime_ns))  # its mtime lies
    assert digest(pool, tmp_path / "cache") != before
    assert sorted(opened) == sorted(["a.bmp", "b.bmp", "t.tar"] * 2)


def test_a_changed_member_of_a_tar_is_noticed(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "RACY", -(10**15))
    before = digest(pool, tmp_path / "cache")
    data = (pool / "t.tar").read_bytes()
    time.sleep(0.02)  # the clock of a file system ticks every few ms
    (pool / "t.tar").write_bytes(data.replace(b"bbbb", b"cccc"))
    assert digest(pool, tmp_path / "cache") != before


def test_the_digest_is_of_contents_not_of_places(pool, tmp_path):
    before = digest(pool, None)
    pool.rename(tmp_path / "elsewhere")
    assert digest(tmp_path / "elsewhere", None) == before
    whole = collect(tmp_path / "elsewhere", None)
    assert content_digest(whole.take([0, 1, 2, 3])) == before
    assert content_digest(whole.take([1, 0, 2, 3])) != before


def test_damage_of_the_cache_is_nothing(pool, opened, tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "RACY", -(10**15))
    before = digest(pool, tmp_path / "cache")
    for path in (tmp_path / "cache").rglob("*.*"):
        path.write_bytes(path.read_bytes()[:-40])
    assert digest(pool, tmp_path / "cache") == before


def test_a_cache_that_cannot_be_written_is_said_and_done_without(
    pool, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(identity, "RACY", -(10**15))
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert digest(pool, tmp_path / "file" / "cache") == digest(pool, None)
    assert "contents of images cannot be kept" in caplog.text
    assert "set SSLD_HOME" in caplog.text


def test_an_unreadable_image_has_no_content(pool):
    (pool / "c.jpg").symlink_to("nowhere")
    images = collect(pool, None)
    assert images.table["content"].null_count == 1
    assert images.table["size"].to_pylist()[-1] == -1
