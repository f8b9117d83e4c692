"""A server and its client over real connections, with a stand-in for the model."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Event

import httpx
import numpy as np
import pytest

from data_catalog.base.config import UserError, parse
from ppcls_core.inference.inputs import given_images
from ppcls_core.serving.access import access_to, read_token
from ppcls_core.serving.app import PATHS, ServedModel
from ppcls_core.serving.client import Client
from ppcls_core.serving.limits import ServeConfig
from ppcls_core.serving.server import listen
from tests.support.stand_in import COLOURS, SIDECAR, Gate, Running, encoded, received, running

TOKEN = "0123456789abcdef"
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    limits = {"max_body_bytes": 100_000, "max_images": 3, "body_seconds": 0.5}
    with pytest.MonkeyPatch.context() as patch, running(header_seconds=0.5, **limits) as one:
        patch.setattr("ppcls_core.serving.guard.DRAIN_SECONDS", 0.1)
        yield one


def send(server: Running, *colours: str, **asked: object) -> httpx.Response:
    files = [("image", (f"{colour}.jpg", encoded(colour))) for colour in colours]
    return httpx.post(f"{server.url}/predict", files=files, trust_env=False, **asked)  # type: ignore[arg-type]


def get(server: Running, path: str, **headers: str) -> httpx.Response:
    return httpx.get(server.url + path, headers=headers, trust_env=False)


def names(response: httpx.Response) -> list[str]:
    """The best class of each image."""
    assert response.status_code == 200, response.text
    return [image["predictions"][0]["name"] for image in response.json()["images"]]


def error(response: httpx.Response, status: int) -> str:
    """What the refusal says it got."""
    assert response.status_code == status, response.text
    assert set(response.json()["error"]) - {"reason"} == {"status", "got", "expected", "remedy"}
    return response.json()["error"]["got"]


def test_a_form_with_several_images(server):
    response = send(server, "blue", "red", "green")
    assert names(response) == ["blue", "red", "green"]
    answer = response.json()
    assert answer["model"] == "Colours"
    assert [image["image"] for image in answer["images"]] == ["blue.jpg", "red.jpg", "green.jpg"]
    for image in answer["images"]:
        shares = [guess["probability"] for guess in image["predictions"]]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1)
        assert sorted(guess["class"] for guess in image["predictions"]) == [0, 1, 2]


def test_json_gives_the_same(server):
    body = {"images": [base64.b64encode(encoded(colour)).decode() for colour in ("green", "red")]}
    response = httpx.post(f"{server.url}/predict", json=body, trust_env=False)
    form = send(server, "green", "red").json()["images"]
    found = response.json()["images"]
    assert [one["predictions"] for one in found] == [one["predictions"] for one in form]


def test_top_k(server):
    (image,) = send(server, "red", params={"top_k": 2}).json()["images"]
    assert len(image["predictions"]) == 2
    assert "query.top_k: '0'" in error(send(server, "red", params={"top_k": 0}), 422)


@pytest.mark.parametrize(
    ("query", "got", "remedy"),
    [
        ("top-k=2", "query parameter 'top-k'", "did you mean 'top_k'?"),
        ("top_k=2&size=3", "query parameter 'size'", "known: top_k"),
        ("top_k=2&top_k=3", "query parameter 'top_k' twice", "give one value"),
    ],
)
def test_a_query_that_would_be_ignored_is_refused(server, query, got, remedy):
    response = send(server, "red", params=query)
    assert error(response, 422) == got
    assert response.json()["error"]["remedy"] == remedy


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/nothing", "GET", 404),
        ("/docs", "GET", 404),
        ("/redoc", "GET", 404),
        ("/predict/", "POST", 404),
        ("/predict", "GET", 405),
        ("/", "POST", 405),
    ],
)
def test_paths_that_are_not_there(server, path, method, status):
    assert method in error(httpx.request(method, server.url + path, trust_env=False), status)


@pytest.mark.parametrize("path", sorted({*PATHS, "/nothing"}))
def test_head_is_get_without_the_body(server, path):
    got, head = get(server, path), httpx.head(server.url + path, trust_env=False)
    assert head.status_code == got.status_code
    assert head.content == b""
    changing = {"date", "content-length"} if path == "/metrics" else {"date"}
    for name in got.headers.keys() - changing:
        assert head.headers[name] == got.headers[name], name
    assert head.headers["content-length"].isdecimal()
    # The next answer on the same connection begins where this one ends.
    one = f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    assert server.raw(one * 2 + one.replace(b"HEAD", b"GET")).count(b"HTTP/1.1 ") == 3


METHODS = ("OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "GET")


@pytest.mark.parametrize(
    ("path", "method"),
    [(p, m) for p in PATHS for m in METHODS if m != ("POST" if p == "/predict" else "GET")],
)
def test_another_method_is_a_405_that_names_those_allowed(server, path, method):
    response = httpx.request(method, server.url + path, trust_env=False)
    assert error(response, 405).startswith(method)
    allowed = "POST" if path == "/predict" else "GET, HEAD"
    assert response.headers["allow"] == allowed
    assert response.json()["error"]["expected"] == f"one of {allowed}"


def test_openapi_describes_it(server):
    described = get(server, "/openapi.json").json()["paths"]
    assert set(described) == {"/predict", "/health", "/ready", "/metrics"}
    assert "multipart/form-data" in described["/predict"]["post"]["requestBody"]["content"]


def test_the_page_needs_nothing_from_elsewhere(server):
    page = get(server, "/")
    assert "http" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"


def test_health_readiness_and_metrics():
    with running() as server:
        assert get(server, "/health").json() == {"status": "alive"}
        assert get(server, "/ready").json()["status"] == "ready"
        send(server, "red", "red")
        get(server, "/unheard-of")
        text = get(server, "/metrics").text
    for line in (
        'ppcls_requests_total{path="/predict",status="200"} 1.0',
        'ppcls_requests_total{path="other",status="404"} 1.0',
        'ppcls_request_seconds_count{path="/predict"} 1.0',
        "ppcls_batch_images_sum 2.0",
        "ppcls_decode_seconds_count 2.0",
        "ppcls_queue_images 0.0",
    ):
        assert line in text
    assert "unheard" not in text


@contextmanager
def loading(gate: Gate, **limits: object) -> Iterator[tuple[Running, ThreadPoolExecutor]]:
    """A server whose model is warm and then answers nothing until its gate is opened."""
    gate.opened.set()
    with running(gate, **limits) as server, ThreadPoolExecutor(16) as pool:
        gate.batches.clear()
        gate.opened.clear()
        try:
            yield server, pool
        finally:
            gate.opened.set()


def wait_for(condition: object) -> None:
    until = time.monotonic() + 100
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.005)


def waiting(server: Running) -> float:
    """Images taken on."""
    return server.service.metrics.queue._value.get()


def test_requests_share_batches_and_each_gets_its_own():
    gate, sent = Gate(Event(), []), [COLOURS[number % 3] for number in range(9)]
    with loading(gate, max_batch=4) as (server, pool):
        jobs = [pool.submit(send, server, colour, colour) for colour in sent]
        wait_for(lambda: waiting(server) == 18)
        gate.opened.set()
        assert [names(job.result()) for job in jobs] == [[c, c] for c in sent]
    assert sum(gate.batches) == 18
    assert max(gate.batches) == 4
    assert len(gate.batches) <= 6  # the first two may have gone before the others came


def test_a_full_queue_refuses_and_empties_again():
    gate = Gate(Event(), [])
    with loading(gate, max_queue=3, max_images=3) as (server, pool):
        first = pool.submit(send, server, "red", "green")
        wait_for(lambda: waiting(server) == 2)
        refused = send(server, "red", "green")
        assert "2 more with 2 images waiting" in error(refused, 503)
        assert int(refused.headers["retry-after"]) >= 1
        second = pool.submit(send, server, "blue")
        wait_for(lambda: waiting(server) == 3)
        assert "1 more with 3" in error(send(server, "red"), 503)
        gate.opened.set()
        assert names(first.result()) == ["red", "green"]
        assert names(second.result()) == ["blue"]
        assert names(send(server, "red")) == ["red"]


def test_a_lone_image_does_not_wait_for_others():
    with running() as server:
        batcher = server.service.batcher  # it waits for longer than a user may ask for
        batcher._config = batcher._config.model_copy(update={"max_wait_ms": 60_000})
        begun = time.perf_counter()
        assert names(send(server, "red")) == ["red"]
        assert time.perf_counter() - begun < 30


def test_bodies_under_way_are_bounded(monkeypatch):
    monkeypatch.setattr("ppcls_core.serving.guard.DRAIN_SECONDS", 0.1)
    with running(max_body_bytes=30_000, max_held_bytes=50_000) as server:
        bodies, part = server.service.guard.bodies, b"[" * 25_001
        with server.connect() as one, server.connect() as other:
            one.sendall(HEAD + b"Content-Length: 30000\r\n\r\n" + part)
            wait_for(lambda: bodies.held == len(part))
            other.sendall(HEAD + b"Content-Length: 30000\r\n\r\n" + part)
            answer = received(other)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"more than 50,000 bytes of requests at a time" in answer
        wait_for(lambda: bodies.held == 0)
        assert names(send(server, "red")) == ["red"]


def test_a_failure_of_the_model_is_a_500_and_the_next_request_is_answered(capfd):
    failing = Event()

    def predict(pixels: np.ndarray) -> np.ndarray:
        if failing.is_set():
            raise RuntimeError("secret detail")
        return pixels.mean((2, 3), dtype=np.float32)

    with running(predict) as server:
        failing.set()
        response = send(server, "red")
        assert error(response, 500) == "RuntimeError"
        assert "secret" not in response.text
        failing.clear()
        assert names(send(server, "red")) == ["red"]


def test_logits_that_are_no_numbers_are_a_500():
    with running(lambda pixels: np.full((len(pixels), 3), np.nan, np.float32)) as server:
        assert "not finite" in error(send(server, "red"), 500)


CHUNK = b"%x\r\n" % 60_000 + bytes(60_000) + b"\r\n"


@pytest.mark.parametrize(
    ("request_", "status", "got"),
    [
        (HEAD + b"Content-Length: 100001\r\n\r\n", 413, b"100,001 bytes"),
        (HEAD + b"Content-Length: 99999999999999999999\r\n\r\n", 413, b"bytes or more"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK * 5, 413, b"bytes or more"),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", 415, b"gzip"),
        (HEAD + b"Content-Length: 5\r\n\r\n[1", 408, b"2 bytes of a body in 0.5 s"),
        (HEAD + b"X: " + b"y" * 40_000 + b"\r\nContent-Length: 0\r\n\r\n", 431, b"headers of"),
        (HEAD[:40], 408, b"part of a request's head"),
        (HEAD + b"Content-Length: x\r\n\r\n", 400, b"other bytes than"),
        (b"\x16\x03\x01\x02\0\r\n\r\n", 400, b"other bytes than"),
        (HEAD.replace(b"localhost", b"evil.example") + b"\r\n", 421, b"evil.example"),
        (HEAD.replace(b"Host: localhost\r\n", b"") + b"\r\n", 400, b""),
        (HEAD + b"Origin: http://evil.example\r\n\r\n", 403, b"evil.example"),
        (HEAD + b"Origin: http://[\r\n\r\n", 403, b"Origin"),
    ],
)
def test_what_is_no_proper_request_gets_a_4xx_and_the_connection_ends(
    server, request_, status, got
):
    answer = server.raw(request_)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert got in answer
    assert answer.count(b"HTTP/1.1 ") == 1


def test_an_idle_connection_ends(server):
    with server.connect() as connection:
        assert received(connection) == b""
    with server.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he")
        assert b"408 Request Timeout" in received(connection)


def test_a_connection_is_kept_and_requests_may_follow_at_once(server):
    one = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert server.raw(one * 3).count(b"200 OK") == 3


def test_connections_are_limited():
    with running(max_connections=2, header_seconds=5) as server:
        with server.connect(), server.connect():
            wait_for(lambda: len(server.server.server_state.connections) == 2)
            with server.connect() as third:
                answer = received(third)
            assert b"503 Service Unavailable" in answer
            assert b"retry-after: 1" in answer
        wait_for(lambda: not server.server.server_state.connections)
        assert names(send(server, "red")) == ["red"]


def test_a_stop_lets_what_is_under_way_finish_and_waits_for_no_slow_sender():
    gate = Gate(Event(), [])
    with loading(gate, body_seconds=30) as (server, pool), server.connect() as slow:
        slow.sendall(HEAD + b"Content-Length: 500\r\n\r\n[")
        job = pool.submit(send, server, "blue")
        wait_for(lambda: waiting(server) == 1)
        begun = time.perf_counter()
        server.server.should_exit = True
        assert b"503 Service Unavailable" in received(slow)
        gate.opened.set()
        assert names(job.result()) == ["blue"]
        assert time.perf_counter() - begun < 25  # and not the 30 of the slow one


def test_a_token_is_asked_for_but_not_by_page_and_probes():
    with running(token=TOKEN) as server:
        for path in ("/", "/health", "/ready"):
            assert get(server, path).status_code == 200
        for path in set(PATHS) - {"/", "/health", "/ready"}:
            response = get(server, path)
            assert error(response, 401) == "no Authorization header"
            assert response.headers["www-authenticate"] == "Bearer"
        for bad in ("Bearer x", f"Bearer {TOKEN}x", "Bearer", f"Basic {TOKEN}", "Bearer é"):
            assert send(server, "red", headers={"Authorization": bad.encode()}).status_code == 401
        good = {"Authorization": f"Bearer {TOKEN}"}
        assert names(send(server, "red", headers=good)) == ["red"]


def test_others_than_this_machine_need_a_token(tmp_path: Path):
    for host in ("0.0.0.0", "192.0.2.1", "example.org", "::"):
        with pytest.raises(UserError, match="no token is given"):
            access_to(host, None)
        assert not access_to(host, TOKEN).local
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert access_to(host, None).local
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token(tmp_path / "token", "other") == TOKEN
    for bad in ("short", "with a space inside", "é" * 20, ""):
        with pytest.raises(UserError, match="expected at least 16"):
            read_token(None, bad)


def test_a_port_in_use_is_told():
    with listen("127.0.0.1", 0) as bound, pytest.raises(UserError, match="choose another --port"):
        listen("127.0.0.1", bound.getsockname()[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_bach": 3}, "did you mean 'max_batch'"),
        ({"max_images": 65}, "max_images is above max_queue"),
        ({"max_held_bytes": 1}, "max_body_bytes is above max_held_bytes"),
        ({"max_pixels": 10**9}, "max_pixels"),
    ],
)
def test_limits_are_checked(settings, message):
    with pytest.raises(UserError, match=message):
        parse(ServeConfig, settings, "ppcls serve")


def test_the_client_keeps_the_order_and_tells_what_is_wrong(server, tmp_path: Path):
    for number, colour in enumerate(COLOURS * 4):
        (tmp_path / f"{number:02}.png").write_bytes(encoded(colour, ".png"))
    (tmp_path / "broken.png").write_bytes(encoded("red", ".png")[:-30])
    (tmp_path / "notes.png").write_text("no picture")
    (tmp_path / "vast.png").write_bytes(encoded("red", ".png") + bytes(100_000))
    found = given_images([str(tmp_path), str(tmp_path / "none.jpg")])
    with Client(server.url, None, 3) as client:
        rows = list(client.classify_all(found, 1))
    assert [row.guesses[0].name for row in rows[:12]] == list(COLOURS * 4)
    reasons = [row.reason for row in rows[12:]]
    assert reasons == ["truncated", "not_an_image", "refused", "missing"]
    assert "expected a whole image file; send the whole file" in rows[12].detail
    assert "a body of" in rows[14].detail


def test_the_client_comes_again_to_a_busy_server(tmp_path: Path):
    gate = Gate(Event(), [])
    (tmp_path / "blue.png").write_bytes(encoded("blue", ".png"))
    (picture,) = given_images([str(tmp_path)])
    with loading(gate, max_queue=1, max_images=1) as (server, pool):
        first = pool.submit(send, server, "red")
        wait_for(lambda: waiting(server) == 1)
        with Client(server.url, None, 1) as client:
            second = pool.submit(client.classify, picture, 1)
            count = server.service.metrics.requests.labels("/predict", "503")
            wait_for(lambda: count._value.get() == 1)
            gate.opened.set()
            assert names(first.result()) == ["red"]
            assert second.result().guesses[0].name == "blue"


def test_the_client_says_that_nobody_is_there(tmp_path: Path):
    (tmp_path / "red.png").write_bytes(encoded("red", ".png"))
    with listen("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
    found = given_images([str(tmp_path)])
    with (
        Client(f"127.0.0.1:{port}", None, 1) as client,
        pytest.raises(UserError, match="no answer"),
    ):
        list(client.classify_all(found, 1))
    with pytest.raises(UserError, match="no address of a server"):
        Client("ftp://x", None, 1)


def test_a_recipe_s_student_is_called_by_the_recipe():
    served = ServedModel(SIDECAR, nullcontext, "closet")  # type: ignore[arg-type]
    assert served.title == "closet (Colours)"
    assert replace(served, recipe="").title == "Colours"
