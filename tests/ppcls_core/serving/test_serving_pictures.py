"""Bodies of requests: what is in them comes out, and nothing else than a Refused goes wrong."""

from __future__ import annotations

import base64
import json
import time

import cv2
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppcls_core.data.decode import MAX_SCANS, decode
from ppcls_core.data.transforms import Preprocess
from ppcls_core.serving.limits import Refused, ServeConfig
from ppcls_core.serving.pictures import Upload, network_input, read_pictures
from tests.support.stand_in import encoded

CONFIG = ServeConfig(max_images=3)
FORM = "multipart/form-data; boundary=x"
JSON = "application/json"


def format_of(files: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    """Content-Type and body as httpx makes them."""
    parts = [("image", (name, data, "image/jpeg")) for name, data in files]
    request = httpx.Request("POST", "http://x", files=parts)
    return request.headers["content-type"], request.read()


NAMES = st.text(st.characters(exclude_categories=["C"], exclude_characters='"\\'), min_size=1)


@given(st.lists(st.tuples(NAMES, st.binary()), min_size=1, max_size=3))
def test_a_form_gives_the_files_that_went_into_it(files):
    found = read_pictures(*format_of(files), CONFIG)
    assert [picture.data for picture in found] == [data for _, data in files]


def test_names_of_files_come_through():
    (one,) = read_pictures(*format_of([("grün.jpg", b"1")]), CONFIG)
    assert one.name == "grün.jpg"


@given(st.lists(st.binary(), min_size=1, max_size=3))
def test_json_gives_the_files_that_went_into_it(files):
    body = json.dumps({"images": [base64.b64encode(data).decode() for data in files]}).encode()
    found = read_pictures(JSON, body, CONFIG)
    assert [(p.name, p.data) for p in found] == [(str(n), d) for n, d in enumerate(files)]


def test_another_field_is_told_which_is_expected():
    for data in ({"file": b"1"}, {"image": b"1", "top_k": b"3"}):
        request = httpx.Request("POST", "http://x", files=data)
        with pytest.raises(Refused) as caught:
            read_pictures(request.headers["content-type"], request.read(), CONFIG)
        assert caught.value.status == 422
        assert caught.value.got == f"part {len(data)} as field '{list(data)[-1]}'"
        assert caught.value.expected == "images alone, each as field 'image'"


PIECES = st.sampled_from(
    [b"--x", b"\r\n", b"--", b"\r\n\r\n", b"Content-Disposition: form-data", b'; name="', b":"]
)


@given(
    st.sampled_from([FORM, JSON, "multipart/form-data", f"{FORM}; charset=undefined", ""])
    | st.text(st.characters(max_codepoint=255), max_size=50),
    st.binary() | st.lists(PIECES | st.binary(max_size=3)).map(b"".join),
)
def test_whatever_comes_is_refused_or_read(content_type, body):
    try:
        assert 1 <= len(read_pictures(content_type, body, CONFIG)) <= CONFIG.max_images
    except Refused as refused:
        assert refused.status in (400, 413, 415, 422)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON_VALUES)
def test_json_of_another_shape_is_refused(value):
    with pytest.raises(Refused) as caught:
        read_pictures(JSON, json.dumps(value).encode(), CONFIG)
    assert caught.value.status in (400, 413, 422)


HTML = (
    b'--x\r\nContent-Disposition: form-data; name="image"\r\nContent-Type: text/html\r\n\r\n1'
    b"\r\n--x--"
)


@pytest.mark.parametrize(
    ("content_type", "body", "status", "got"),
    [
        ("text/plain", b"x", 415, "Content-Type 'text/plain'"),
        ("multipart/form-data", b"x", 400, "a boundary of 0 bytes"),
        (FORM, b"no boundary", 400, "no part"),
        (FORM, b"--x\r\n\r\n\r\ndata", 400, "ends before its last boundary"),
        (FORM, b"--x\r\nContent-Type: image/png\r\n--x--", 400, "without an end of its header"),
        (FORM, b"--x--", 422, "no image"),
        (FORM, b"--x\r\n\r\n1\r\n" * 4 + b"--x--", 413, "4 images or more"),
        (FORM, b"--x\r\n\r\n1\r\n" * 900, 413, "4 images or more"),
        (FORM, b"--x\r\nContent-Type: image/png\r\n\r\n1\r\n--x--", 422, "part 1 as field ''"),
        (FORM, HTML, 415, "part 1 of type"),
        (JSON, b"{", 400, "Invalid JSON"),
        (JSON, b"[" * 100_000, 422, "another shape"),
        (JSON, b"[]", 422, "the body: Input should be an object"),
        (JSON, b'{"images": []}', 422, "no image"),
        (JSON, b'{"picture": []}', 422, "images: Field required"),
        (JSON, b'{"images": [""' + b', ""' * 3 + b"]}", 413, "4 images or more"),
        (JSON, b'{"images": 1}', 422, "images: Input should be a valid array"),
        (JSON, b'{"images": [1]}', 422, "images.0: Input should be a valid string"),
        (JSON, b'{"images": ["AAA"]}', 400, "images.0: no base64"),
        (JSON, b'{"images": ["*"]}', 400, "images.0: no base64"),
    ],
)
def test_a_refusal_says_what_was_got(content_type, body, status, got):
    with pytest.raises(Refused) as caught:
        read_pictures(content_type, body, CONFIG)
    assert caught.value.status == status
    assert got in caught.value.got


def test_the_network_sees_what_predict_shows_it():
    data, preprocess = encoded("green"), Preprocess(size=32)
    want = preprocess(decode(data))
    assert np.array_equal(network_input(Upload("x", data), preprocess, 10**6), want)


def scans(num: int) -> bytes:
    """A progressive JPEG whose last scan comes `num` times more."""
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    data = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8), flags)[1].tobytes()
    return data[:-2] + data[data.rfind(b"\xff\xda") : -2] * num + b"\xff\xd9"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
def test_too_many_pixels_are_refused_by_the_header(suffix):
    picture = Upload("x", encoded("red", suffix, 50))
    assert network_input(picture, Preprocess(size=32), 2500).shape == (3, 32, 32)
    with pytest.raises(Refused, check=lambda refused: refused.status == 413) as caught:
        network_input(picture, Preprocess(size=32), 2499)
    assert caught.value.reason == "decompression_bomb"


def test_a_jpeg_of_many_scans_is_refused():
    assert network_input(Upload("x", scans(20)), Preprocess(size=32), 10**6).shape == (3, 32, 32)
    with pytest.raises(Refused, check=lambda refused: refused.status == 413):
        network_input(Upload("x", scans(MAX_SCANS)), Preprocess(size=32), 10**6)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff" * 4_000_000,
        b"\xff\xd8" + b"\xff\xe0\0\2" * 1_000_000,
        encoded("red")[:-2] + b"\xff" * 4_000_000,
        b"P6\n" + b"#" * 4_000_000,
    ],
)
def test_a_header_that_would_take_long_is_refused_at_once(data):
    begun = time.thread_time()
    with pytest.raises(Refused, check=lambda refused: refused.status == 400):
        network_input(Upload("x", data), Preprocess(size=32), 10**6)
    assert time.thread_time() - begun < 0.3


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xd9", b"text", encoded("red")[:-20]])
def test_what_is_no_whole_image_is_a_400(data):
    with pytest.raises(Refused, check=lambda refused: refused.status == 400):
        network_input(Upload("x", data), Preprocess(size=32), 10**6)
