"""What a JPEG's segments say, against Pillow, and of damaged ones."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ppcls_core.data.jpeg import frame_of, sends_all


def jpeg(mode="RGB", **options):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def known(data):
    frame = frame_of(data, 100)
    assert frame is not None
    return frame


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize(("mode", "components"), [("L", 1), ("RGB", 3), ("CMYK", 4)])
def test_size_and_components(mode, components, options):
    data = jpeg(mode, **options)
    frame = known(data)
    assert (frame.height, frame.width, frame.components) == (37, 53, components)
    assert data[frame.height_at : frame.height_at + 4] == b"\0\x25\0\x35"
    (*_, last) = frame.scans
    assert data[last - 2 : last] == b"\xff\xda"
    assert len(frame.scans) == data.count(b"\xff\xda")
    assert (frame.orientation, frame.depth, frame.has_more_pictures) == (1, 8, False)
    assert frame.is_ended
    assert sends_all(data, frame)


@pytest.mark.parametrize(("mode", "components"), [("L", 1), ("RGB", 3), ("CMYK", 4)])
def test_a_progressive_jpeg_sends_all_with_its_last_scan(mode, components):
    data = jpeg(mode, progressive=True)
    scans = known(data).scans
    assert len(scans) > components
    for at in scans[1:]:
        cut = known(data[:at])
        assert not cut.is_ended
        assert not sends_all(data, cut)
    last = known(data[: scans[-1] + 12])
    assert sends_all(data, last)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_that_of_exif(orientation):
    exif = Image.Exif()
    exif[0x10F] = "a camera"
    exif[0x112] = orientation
    assert known(jpeg(exif=exif)).orientation == orientation


@pytest.mark.parametrize(("first", "second"), [(1, 6), (6, 6), (9, None), (0, None)])
def test_orientations_that_are_odd_are_left_to_others(first, second):
    data = b""
    for value in (first, second):
        if value is not None:
            exif = Image.Exif()
            exif[0x112] = value
            body = exif.tobytes()
            data += b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body
    assert known(b"\xff\xd8" + data + jpeg()[2:]).orientation == 0


def test_other_metadata_do_not_turn_the_picture():
    other = known(jpeg(xmp=b"<x/>" * 9, comment="\x12\x01\x03\0\x01\0\0\0\x06\0"))
    assert other.orientation == 1


def test_a_thumbnail_in_the_metadata_is_not_the_picture():
    data = jpeg(exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + jpeg("L"))
    assert data.count(b"\xff\xda") == 2
    frame = known(data)
    assert (frame.components, frame.height_at) == (3, data.rfind(b"\xff\xc0") + 5)
    assert frame.scans == (data.rfind(b"\xff\xda") + 2,)


@pytest.mark.parametrize("marker", [0xC3, 0xC9, 0xCA])
def test_of_other_codes_the_end_mark_alone_says_that_all_is_there(marker):
    data = jpeg().replace(b"\xff\xc0", bytes([0xFF, marker]))
    frame = known(data)
    assert (frame.height, frame.width, frame.is_ended) == (37, 53, True)
    assert not sends_all(data, frame)


@pytest.mark.parametrize("most", [1, 3, 30])
def test_segments_are_counted_up_to_one_more_than_asked_for(most):
    data = jpeg()
    comments = b"\xff\xfe\0\4\xff\xda" * 40
    frame = frame_of(data[:-2] + comments + data[-2:], most)
    assert frame is None or frame.num_segments == most + 1
    assert (frame is None) == (most < 8)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 800), st.binary(max_size=9), st.integers(0, 900))
def test_any_damage_gives_a_frame_inside_the_data_or_none(place, patch, end):
    data = jpeg()[:end]
    data = data[:place] + patch + data[place + len(patch) :]
    frame = frame_of(data, 100)
    assert frame is None or frame.height_at + 4 < frame.scans[0] < len(data)
