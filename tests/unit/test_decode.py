"""Every kind of image file that a crawl brings home, and every kind that is none."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ppcls_core.data.decode import REASONS, BadImage, decode, read_image


def picture(height=60, width=80):
    """A smooth RGB picture, so that lossy formats stay close to it."""
    small = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(kind, image=None, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(picture() if image is None else image).convert(mode).save(
        buffer, kind, **options
    )
    return buffer.getvalue()


def reason_of(data):
    with pytest.raises(BadImage) as caught:
        decode(data)
    assert caught.value.reason in REASONS
    return caught.value.reason


def distance(data):
    pixels = decode(data)
    assert pixels.dtype == np.uint8
    return np.abs(pixels.astype(int) - picture()).mean()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_rgb_pixels(kind):
    assert distance(encoded(kind)) == 0


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {"quality": 95}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("GIF", {})],
)
def test_lossy_formats_give_nearly_the_rgb_pixels(kind, options):
    assert distance(encoded(kind, **options)) < 15


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "CMYK"), ("PNG", "RGBA"), ("WEBP", "RGBA")])
def test_four_channels_become_rgb(kind, mode):
    assert distance(encoded(kind, mode=mode)) < 10


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "L"), ("PNG", "L"), ("PNG", "LA"), ("PNG", "1")]
)
def test_greyscale_becomes_three_equal_channels(kind, mode):
    pixels = decode(encoded(kind, mode=mode))
    assert pixels.shape == (60, 80, 3)
    assert (pixels == pixels[..., :1]).all()


def test_alpha_is_dropped_not_blended():
    clear = np.full((20, 20, 4), (200, 10, 30, 0), np.uint8)
    assert (decode(encoded("PNG", clear, "RGBA")) == (200, 10, 30)).all()


def test_16_bit_png_is_scaled_to_8_bit():
    deep = picture()[..., ::-1].astype(np.uint16) * 257
    assert distance(cv2.imencode(".png", deep)[1].tobytes()) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    data = encoded("JPEG", exif=exif, quality=95)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    pixels = decode(data)
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).mean() < 2


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("TIFF", {})],
)
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_truncated(kind, options, part):
    data = encoded(kind, **options)
    assert reason_of(data[: int(len(data) * part)]) == "truncated"


def with_thumbnail(data):
    """The JPEG `data` with a JPEG thumbnail, which ends in a marker of its own, in its EXIF."""
    thumbnail = encoded("JPEG", picture(30, 40))
    tags = struct.pack("<HHHIIHHIII", 2, 0x201, 4, 1, 44, 0x202, 4, 1, len(thumbnail), 0)
    tiff = b"II*\0" + struct.pack("<IHI", 8, 0, 14) + tags + thumbnail
    segment = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def test_end_of_a_thumbnail_is_not_the_end_of_the_picture():
    data = with_thumbnail(encoded("JPEG"))
    assert data.count(b"\xff\xd9") == 2
    assert distance(data) < 10
    assert reason_of(data[: len(data) - 200]) == "truncated"


def test_bytes_between_segments_and_after_the_end_are_skipped():
    data = encoded("JPEG")
    place = data.find(b"\xff\xdb")
    assert distance(data[:place] + b"\0\0\0" + data[place:] + b"rest") < 10
    assert distance(data[:place] + b"\xff\xff" + data[place:]) < 10


def test_damaged_png():
    data = bytearray(encoded("PNG"))
    data[len(data) // 2] ^= 255
    assert reason_of(bytes(data)) == "truncated"


@pytest.mark.parametrize(
    "data",
    [b"hello world\n" * 50, b"<html>404</html>", b"\xff\xd8", b"\0" * 500, b"%!PS-Adobe-3.0"],
)
def test_not_an_image(data):
    assert reason_of(data) == "not_an_image"


def png_of(width, height):
    """A PNG header and the start of its pixels, which never come."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + checksum + b"\0\0\xff\xffIDAT"


def test_bomb_is_refused_from_its_header():
    jpeg = encoded("JPEG")
    place = jpeg.find(b"\xff\xc0") + 5
    jpeg = jpeg[:place] + struct.pack(">HH", 50_000, 50_000) + jpeg[place + 4 :]
    assert reason_of(png_of(50_000, 50_000)) == reason_of(jpeg) == "decompression_bomb"
    assert reason_of(png_of(10_000, 10_001)) == "decompression_bomb"
    assert reason_of(png_of(10_000, 10_000)) == "truncated"  # just not a bomb


@pytest.mark.parametrize("shape", [(8, 8), (15, 400), (400, 15)])
def test_too_small(shape):
    assert reason_of(encoded("PNG", picture(*shape))) == "too_small"


def test_sixteen_pixels_are_enough():
    assert decode(encoded("PNG", picture(16, 16))).shape == (16, 16, 3)


def test_files(tmp_path):
    (tmp_path / "good.jpg").write_bytes(encoded("PNG"))
    (tmp_path / "empty.jpg").touch()
    assert read_image(tmp_path / "good.jpg").shape == (60, 80, 3)
    for name, reason in (
        ("empty.jpg", "empty"),
        ("no.jpg", "missing"),
        (".", "missing"),
        ("\0", "missing"),
    ):
        with pytest.raises(BadImage) as caught:
            read_image(tmp_path / name)
        assert caught.value.reason == reason


def test_threads_leave_warnings_as_they_are():
    import warnings

    before = list(warnings.filters)
    data = encoded("JPEG")
    with ThreadPoolExecutor(8) as threads:
        assert len(list(threads.map(decode, [data] * 200))) == 200
    assert list(warnings.filters) == before


SEEDS = [encoded("JPEG"), encoded("PNG"), encoded("WEBP"), with_thumbnail(encoded("JPEG"))]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SEEDS), st.integers(0, 4000), st.binary(max_size=4), st.integers(0, 4000))
def test_any_damage_gives_pixels_or_a_bad_image(data, place, patch, end):
    damaged = data[:place] + patch + data[place + len(patch) : max(end, place)]
    try:
        pixels = decode(damaged)
    except BadImage as error:
        assert error.reason in REASONS
    else:
        assert pixels.ndim == 3
        assert pixels.dtype == np.uint8
