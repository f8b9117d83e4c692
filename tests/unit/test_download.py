"""Downloads from a server on this machine that breaks off, changes its mind, or is gone."""

from __future__ import annotations

import base64
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from data_catalog.config import UserError
from data_catalog.download import download, weights_folder

CONTENT = np.random.default_rng(0).bytes(3_000_000)


class Server(ThreadingHTTPServer):
    """Serves `content`; `cut` answers in a row break off after a million bytes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.tag, self.cut, self.md5, self.status = CONTENT, '"a"', 0, None, None
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
        self.send_header("Content-Length", str(len(server.content) - start))
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
    path = download(server.url, tmp_path)
    assert path == tmp_path / "Net_pretrained.pdparams"
    assert path.read_bytes() == CONTENT
    assert download(server.url, tmp_path) == path
    assert server.ranges == [None]
    assert names(tmp_path) == ["Net_pretrained.pdparams", "Net_pretrained.pdparams.json"]


def test_a_broken_connection_is_taken_up_where_it_ended(server, tmp_path):
    server.cut = 2
    assert download(server.url, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000000-", "bytes=2000000-"]


def test_the_next_call_goes_on_from_what_has_arrived(server, tmp_path):
    server.cut = 3
    server.content = CONTENT * 2
    with pytest.raises(UserError, match=r"cut short: got 3,000,000 of 6,000,000 bytes.*put it at"):
        download(server.url, tmp_path)
    assert not (tmp_path / "Net_pretrained.pdparams").exists()
    assert download(server.url, tmp_path).read_bytes() == CONTENT * 2
    assert server.ranges[-1] == "bytes=3000000-"


def test_a_part_of_another_version_is_not_continued(server, tmp_path):
    server.cut = 3
    server.content = CONTENT * 2
    with pytest.raises(UserError):
        download(server.url, tmp_path)
    server.content, server.tag = CONTENT[::-1] * 2, '"b"'
    assert download(server.url, tmp_path).read_bytes() == CONTENT[::-1] * 2


def test_a_part_longer_than_the_file_is_dropped(server, tmp_path):
    server.cut = 3
    server.content = CONTENT * 2
    with pytest.raises(UserError):
        download(server.url, tmp_path)
    server.content = CONTENT[:5]  # under the same tag
    assert download(server.url, tmp_path).read_bytes() == CONTENT[:5]


@pytest.mark.parametrize("encode", [bytes.hex, lambda d: base64.b64encode(d).decode()])
def test_the_server_s_md5_is_compared(server, tmp_path, encode):
    server.md5 = encode(hashlib.md5(b"other").digest())
    with pytest.raises(UserError, match="does not have the MD5"):
        download(server.url, tmp_path)
    assert names(tmp_path) == []
    server.md5 = encode(hashlib.md5(CONTENT).digest())
    assert download(server.url, tmp_path).read_bytes() == CONTENT


def test_a_kept_file_that_changed_is_refused(server, tmp_path):
    path = download(server.url, tmp_path)
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(UserError, match=r"has changed since it was downloaded.*delete it"):
        download(server.url, tmp_path)


def test_a_file_put_there_by_hand_is_taken(tmp_path):
    (tmp_path / "w.pdparams").write_bytes(b"mine")
    assert download("http://127.0.0.1:9/w.pdparams", tmp_path).read_bytes() == b"mine"


@pytest.mark.parametrize("status", [404, 403, 500])
def test_the_server_s_refusal_is_told(server, tmp_path, status):
    server.status = status
    with pytest.raises(UserError, match=rf"the server answers {status}\); without network"):
        download(server.url, tmp_path)


def test_without_network_the_error_says_where_the_file_goes(tmp_path):
    with pytest.raises(UserError, match=rf"fetch it elsewhere and put it at {tmp_path}/w\.pdp"):
        download("http://127.0.0.1:9/w.pdparams", tmp_path)


def test_several_callers_fetch_one_file_once(server, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: download(server.url, tmp_path), range(4)))
    assert len(paths) == 1
    assert server.ranges == [None]


def test_the_folder_of_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("SSLD_HOME", str(tmp_path / "ssld"))
    assert weights_folder() == tmp_path / "ssld/weights"
    monkeypatch.delenv("SSLD_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights_folder() == tmp_path / "ssld/weights"
