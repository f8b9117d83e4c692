"""What a JPEG's segments say, against Pillow, and of damaged ones."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ppcls_core.data.jpeg import Frame, frame_of, scan_start


def jpeg(mode="RGB", **options):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def known(data):
    frame = frame_of(data)
    assert frame is not None
    return frame


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize(("mode", "components"), [("L", 1), ("RGB", 3), ("CMYK", 4)])
def test_size_and_components(mode, components, options):
    data = jpeg(mode, **options)
    frame = known(data)
    assert (frame.height, frame.width, frame.components) == (37, 53, components)
    assert data[frame.height_at : frame.height_at + 4] == b"\0\x25\0\x35"
    assert data[frame.scan_at - 2 : frame.scan_at] == b"\xff\xda"
    assert data.find(b"\xff\xda") == frame.scan_at - 2 == scan_start(data) - 2
    assert frame.upright


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_orientation_one(orientation):
    exif = Image.Exif()
    exif[0x10F] = "a camera"
    exif[0x112] = orientation
    assert known(jpeg(exif=exif)).upright == (orientation == 1)


def test_other_metadata_do_not_turn_the_picture():
    assert known(jpeg(xmp=b"<x/>" * 9, comment="\x12\x01\x03\0\x01\0\0\0\x06\0")).upright


def test_a_thumbnail_in_the_metadata_is_not_the_picture():
    data = jpeg(exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + jpeg("L"))
    assert data.count(b"\xff\xda") == 2
    assert known(data) == Frame(37, 53, 3, data.rfind(b"\xff\xc0") + 5, scan_start(data), True)
    assert scan_start(data) == data.rfind(b"\xff\xda") + 2


@pytest.mark.parametrize("marker", [0xC3, 0xC9, 0xCA])
def test_other_codes_have_no_frame(marker):
    assert frame_of(jpeg().replace(b"\xff\xc0", bytes([0xFF, marker]))) is None


def test_twelve_bits_have_no_frame():
    assert frame_of(jpeg().replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c")) is None


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 800), st.binary(max_size=9), st.integers(0, 900))
def test_any_damage_gives_a_frame_inside_the_data_or_none(place, patch, end):
    data = jpeg()[:end]
    data = data[:place] + patch + data[place + len(patch) :]
    frame = frame_of(data)
    assert frame is None or frame.height_at + 4 < frame.scan_at <= len(data)
