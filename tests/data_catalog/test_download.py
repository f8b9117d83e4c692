"""Downloads from a server on this machine that breaks off, changes its mind, or is gone."""

from __future__ import annotations

import base64
import hashlib
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data_catalog.base.config import UserError
from data_catalog.base.download import download, weights_folder

CONTENT = np.random.default_rng(0).bytes(3_000_000)


def fetch(url: str, folder: Path, check=lambda path: None) -> Path:
    return download(url, folder, check)


class Server(ThreadingHTTPServer):
    """Serves `content`; `cut` answers in a row break off after a million bytes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.tag, self.cut, self.md5, self.status = CONTENT, '"a"', 0, None, None
        self.length, self.honest = None, True
        self.ranges: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/models/Net_pretrained.pdparams"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.ranges.append(asked)
        if server.status:
            return self.send_error(server.status)
        start = int(asked.split("=")[1].rstrip("-")) if asked else 0
        if start and self.headers["If-Range"] != server.tag:
            start = 0
        if start >= len(server.content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("ETag", server.tag)
        length = len(server.content) - start
        self.send_header("Content-Length", server.length or str(length))
        if start:
            place = start if server.honest else 0
            end = len(server.content)
            self.send_header("Content-Range", f"bytes {place}-{end - 1}/{end}")
        if server.md5:
            self.send_header("Content-MD5", server.md5)
        self.end_headers()
        end = len(server.content)
        if server.cut:
            server.cut, end = server.cut - 1, start + 1_000_000
        self.wfile.write(server.content[start:end])
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_file_is_fetched_once(server, tmp_path):
    path = fetch(server.url, tmp_path)
    assert path == tmp_path / "Net_pretrained.pdparams"
    assert path.read_bytes() == CONTENT
    assert fetch(server.url, tmp_path) == path
    assert server.ranges == [None]
    assert names(tmp_path) == ["Net_pretrained.pdparams", "Net_pretrained.pdparams.json"]


def test_a_broken_connection_is_taken_up_where_it_ended(server, tmp_path):
    server.cut = 2
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000000-", "bytes=2000000-"]


def test_the_next_call_goes_on_from_what_has_arrived(server, tmp_path):
    server.cut = 3
    server.content = CONTENT * 2
    with pytest.raises(UserError, match=r"cut short: got 3,000,000 of 6,000,000 bytes.*put it at"):
        fetch(server.url, tmp_path)
    assert not (tmp_path / "Net_pretrained.pdparams").exists()
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT * 2
    assert server.ranges[-1] == "bytes=3000000-"


def test_a_part_of_another_version_is_not_continued(server, tmp_path):
    server.cut = 3
    server.content = CONTENT * 2
    with pytest.raises(UserError):
        fetch(server.url, tmp_path)
    server.content, server.tag = CONTENT[::-1] * 2, '"b"'
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT[::-1] * 2


def test_a_part_longer_than_the_file_is_dropped(server, tmp_path):
    server.cut = 3
    server.content = CONTENT * 2
    with pytest.raises(UserError):
        fetch(server.url, tmp_path)
    server.content = CONTENT[:5]  # under the same tag
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT[:5]


@pytest.mark.parametrize("encode", [bytes.hex, lambda d: base64.b64encode(d).decode()])
def test_the_server_s_md5_is_compared(server, tmp_path, encode):
    server.md5 = encode(hashlib.md5(b"other").digest())
    with pytest.raises(UserError, match="does not have the MD5"):
        fetch(server.url, tmp_path)
    assert names(tmp_path) == []
    server.md5 = encode(hashlib.md5(CONTENT).digest())
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT


def test_a_kept_file_that_changed_is_refused(server, tmp_path):
    path = fetch(server.url, tmp_path)
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(UserError, match=r"has changed since it was downloaded.*delete it"):
        fetch(server.url, tmp_path)


def test_a_file_put_there_by_hand_is_taken(tmp_path):
    (tmp_path / "w.pdparams").write_bytes(b"mine")
    assert fetch("http://127.0.0.1:9/w.pdparams", tmp_path).read_bytes() == b"mine"


@pytest.mark.parametrize("status", [404, 403, 500])
def test_the_server_s_refusal_is_told(server, tmp_path, status):
    server.status = status
    with pytest.raises(UserError, match=rf"the server answers {status}\); try again"):
        fetch(server.url, tmp_path)


def test_without_network_the_error_says_where_the_file_goes(tmp_path):
    with pytest.raises(UserError, match=rf"fetch it elsewhere and put it at {tmp_path}/w\.pdp"):
        fetch("http://127.0.0.1:9/w.pdparams", tmp_path)


def test_several_callers_fetch_one_file_once(server, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: fetch(server.url, tmp_path), range(4)))
    assert len(paths) == 1
    assert server.ranges == [None]


def test_the_folder_of_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("SSLD_HOME", str(tmp_path / "ssld"))
    assert weights_folder() == tmp_path / "ssld/weights"
    monkeypatch.delenv("SSLD_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights_folder() == tmp_path / "ssld/weights"


def test_a_page_instead_of_the_file_is_not_kept(server, tmp_path):
    def check(path):
        raise UserError(f"{path}: not a weights file")

    with pytest.raises(UserError, match=r"gave something else: .*not a weights file"):
        fetch(server.url, tmp_path, check)
    assert names(tmp_path) == []
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT


def test_a_server_that_goes_on_from_another_place(server, tmp_path):
    server.cut, server.honest = 1, False
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT  # from the start, at the third try
    assert server.ranges == [None, "bytes=1000000-", None]


@pytest.mark.parametrize("length", ["abc", "3000000, 3000000"])
def test_a_length_that_is_no_number_is_not_compared(server, tmp_path, length):
    server.length = length
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot be written .*another folder \(SSLD_HOME"):
        fetch("http://127.0.0.1:9/w.pdparams", tmp_path / "file/weights")


@pytest.mark.parametrize("note", ["[]", "{}", "nonsense"])
def test_a_damaged_note_of_a_part_means_a_fresh_start(server, tmp_path, note):
    server.cut, server.content = 3, CONTENT * 2
    with pytest.raises(UserError):
        fetch(server.url, tmp_path)
    (tmp_path / "Net_pretrained.pdparams.part.json").write_text(note)
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT * 2
    assert server.ranges[-1] is None


def test_a_file_that_the_disk_has_no_room_for_is_not_begun(server, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(UserError, match=r"3,000,000 bytes to come, 1,000,000 free"):
        fetch(server.url, tmp_path)
    assert len(server.ranges) == 1  # the next attempt would find no more room


def test_a_disk_that_fills_up_is_told_and_gone_on_from(server, tmp_path):
    """A limit of the size of files is the nearest to a full disk that a test can have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot be written \(File too large\); what has"):
            fetch(server.url, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=2000000-"]
