"""Every kind of image file that a crawl brings home, and every kind that is none."""

import io
import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from data_catalog.images.columns import loose_images
from ppcls_core.data.augment import RandomCrop, RandomFlip, Resize
from ppcls_core.data.decode import (
    NO_MEMORY,
    READ_AS,
    REASONS,
    BadImage,
    Part,
    decode,
    decoded,
    read_image,
)
from ppcls_core.data.loader import TrainLoader
from ppcls_core.data.transforms import needed, reduction
from ppcls_core.runtime.randomness import generator


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


def assert_as_pillow(data):
    """Equal shapes, and nowhere more than 2 grey levels apart: decoders may round differently."""
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    pixels = decode(data)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= 2


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {"quality": 95}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "RGB", {"subsampling": 0, "keep_rgb": True}),  # not YCbCr inside
        ("JPEG", "RGB", {"restart_marker_blocks": 2}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {"quality": 95}),
        ("MPO", "RGB", {}),
        ("PNG", "L", {}),
        ("PNG", "LA", {}),
        ("PNG", "1", {}),
        ("PNG", "P", {}),
        ("PNG", "P", {"transparency": 3}),
        ("PNG", "RGB", {"transparency": (1, 2, 3)}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("GIF", "P", {"transparency": 3}),
        ("BMP", "P", {}),
        ("TIFF", "CMYK", {}),
        ("TIFF", "P", {}),
        ("PPM", "L", {}),
    ],
)
def test_pixels_are_those_of_pillow(kind, mode, options):
    assert_as_pillow(encoded(kind, mode=mode, **options))


def test_palettes_of_16_colours():
    buffer = io.BytesIO()
    Image.fromarray(picture()).quantize(16).save(buffer, "PNG", bits=4)
    assert_as_pillow(buffer.getvalue())


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_taken(kind):
    later = Image.fromarray(picture()[::-1])
    assert_as_pillow(encoded(kind, save_all=True, append_images=[later]))


def test_cmyk_of_every_program():
    """Adobe's are inverted; without its segment too; with its transform 2 they are YCCK."""
    adobe = encoded("JPEG", mode="CMYK", quality=95)
    place = adobe.find(b"\xff\xee")
    plain = adobe[:place] + adobe[place + 2 + 14 :]
    ycck = bytearray(adobe)
    assert adobe[place + 4 : place + 9] == b"Adobe"
    ycck[place + 15] = 2
    for data in (adobe, plain, bytes(ycck)):
        assert_as_pillow(data)
    assert distance(adobe) < 10


def half_clear(mode, lowest=0):
    """A picture in `mode` whose alpha goes from `lowest` to 255, and its pixels on white."""
    alpha = np.broadcast_to(np.linspace(lowest, 255, 80).astype(np.uint8)[:, None], (60, 80, 1))
    image = Image.fromarray(np.concatenate([picture(), alpha], 2)).convert(mode)
    colours = np.asarray(image.convert("RGB"), float)
    share = np.asarray(image.convert("RGBA"))[..., 3:] / 255
    return image, colours * share + 255 * (1 - share)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGBA", {}),
        ("PNG", "LA", {}),
        ("TIFF", "RGBA", {}),
        ("TIFF", "RGBA", {"compression": "tiff_lzw"}),
        ("WEBP", "RGBA", {"lossless": True, "exact": True}),
    ],
)
@pytest.mark.parametrize("lowest", [0, 200, 255])
def test_transparent_parts_are_laid_on_white(kind, mode, options, lowest):
    image, expected = half_clear(mode, lowest)
    whole = decoded(saved(image, kind, **options))
    assert np.abs(whole.pixels - expected).max() <= (0 if lowest == 255 else 1)
    assert whole.dropped == (() if lowest == 255 else ("alpha",))


@pytest.mark.parametrize(
    ("kind", "mode", "colour"),
    [("PNG", "P", 3), ("GIF", "P", 3), ("PNG", "RGB", (9, 9, 9)), ("PNG", "L", 3), ("PNG", "1", 0)],
)
def test_a_transparent_colour_is_laid_on_white(kind, mode, colour):
    image = Image.new(mode, (40, 30), colour)
    if mode == "P":
        image.putpalette(np.arange(768, dtype=np.uint8).tobytes())
    other = 255 if mode == "1" else (200, 10, 30) if mode == "RGB" else 77
    image.paste(other, (0, 0, 20, 30))
    whole = decoded(saved(image, kind, transparency=colour))
    assert (whole.pixels[:, 20:] == 255).all()
    assert np.array_equal(whole.pixels[:, :20], np.asarray(image.convert("RGB"))[:, :20])
    assert whole.dropped == ("alpha",)


def deep(suffix, channels=3):
    values = np.random.default_rng(0).integers(0, 65536, (60, 80, channels), np.uint16)
    return cv2.imencode(suffix, values)[1].tobytes()


def paged(kind):
    return encoded(kind, save_all=True, append_images=[Image.fromarray(picture()[::-1])])


LAB = saved(Image.fromarray(picture()).convert("LAB"), "TIFF")


@pytest.mark.parametrize(
    ("data", "dropped"),
    [
        *((deep(suffix), ("depth",)) for suffix in (".png", ".tiff", ".ppm")),
        *((deep(suffix, 1), ("depth",)) for suffix in (".png", ".tiff", ".pgm")),
        *((paged(kind), ("frames",)) for kind in ("GIF", "PNG", "WEBP", "TIFF", "MPO")),
        *((encoded(kind, mode="CMYK"), ("colours",)) for kind in ("JPEG", "TIFF")),
        *((encoded(kind, mode=mode), ()) for kind in ("PNG", "TIFF") for mode in ("1", "L", "P")),
        *((encoded(kind), ()) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")),
    ],
)
def test_it_is_told_what_pixels_do_not_show(data, dropped):
    assert decoded(data).dropped == dropped


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_become_the_upper_8(suffix, channels):
    deep = np.random.default_rng(0).integers(0, 65536, (60, 80, channels), np.uint16)
    deep[..., 3:] = 65535
    data = cv2.imencode(suffix, deep)[1].tobytes()
    expected = np.broadcast_to(deep[..., :3][..., ::-1] >> 8, (60, 80, 3))
    assert np.abs(decode(data).astype(int) - expected).max() <= 1


def oriented(orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {"quality": 95}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGB", {}),
        ("WEBP", "RGB", {}),
        ("TIFF", "RGB", {}),
    ],
)
@pytest.mark.parametrize("orientation", range(9))  # 0 is none
def test_exif_orientation_is_applied(kind, mode, options, orientation):
    data = encoded(kind, mode=mode, exif=oriented(orientation), **options)
    assert_as_pillow(data)
    assert decode(data).shape == ((80, 60, 3) if orientation >= 5 else (60, 80, 3))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_reduced_jpeg_is_its_averages(mode, divisor, orientation):
    data = encoded("JPEG", picture(128, 192), mode, exif=oriented(orientation))
    whole, asked = decode(data), []

    def reduce(shape):
        asked.append(shape)
        return Part(divisor)

    reduced = decode(data, reduce)
    assert asked == [(128, 192)]  # the header's, not turned
    height, width = whole.shape[:2]
    size = (width // divisor, height // divisor)
    expected = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
    assert reduced.shape == expected.shape
    assert np.abs(reduced.astype(int) - expected).mean() < 2


def test_sides_of_a_reduced_jpeg_are_rounded_up():
    assert decode(encoded("JPEG", picture(61, 83)), lambda shape: Part(4)).shape == (16, 21, 3)


SAMPLINGS = [
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(16, 100), st.integers(16, 100)),
    st.tuples(st.sampled_from(SAMPLINGS), st.booleans(), st.integers(0, 5)),
    st.sampled_from([1, 2, 4, 8]),
    st.data(),
)
def test_needed_rows_have_the_pixels_of_the_whole(shape, kind, divisor, data):
    sampling, progressive, restarts = kind
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling, cv2.IMWRITE_JPEG_PROGRESSIVE]
    options += [int(progressive), cv2.IMWRITE_JPEG_RST_INTERVAL, restarts]
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", noise, options)[1]
    whole = cv2.imdecode(jpeg, READ_AS[divisor])
    assert whole is not None
    rows = data.draw(st.integers(1, len(whole)))
    got = decode(jpeg.tobytes(), lambda _: Part(divisor, rows))
    assert got.shape == whole.shape
    assert np.array_equal(got[:rows], whole[:rows])
    assert np.array_equal(decode(jpeg.tobytes(), lambda _: Part(divisor)), whole)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("order", ["little", "big"])
def test_needed_rows_are_those_of_the_turned_picture(mode, orientation, order):
    value = struct.pack("<H" if order == "little" else ">H", orientation)
    entry = struct.pack("<HHI" if order == "little" else ">HHI", 0x112, 3, 1) + value + b"\0\0"
    head = (b"II*\0\x08\0\0\0\x01\0", b"MM\0*\0\0\0\x08\0\x01")[order == "big"]
    exif = b"Exif\0\0" + head + entry + bytes(4)
    data = encoded("JPEG", mode=mode, exif=exif)
    assert_as_pillow(data)
    rows = lambda shape: Part(1, 30)  # noqa: E731
    assert np.array_equal(decode(data, rows)[:30], decode(data)[:30])


def test_rows_that_are_not_needed_are_not_decoded():
    data = encoded("JPEG", np.full((64, 64, 3), 200, np.uint8))
    pixels = decode(data, lambda _: Part(1, 20))
    assert (pixels[:20] > 190).all()
    assert (pixels[32:] == 0).all()


@pytest.mark.parametrize("part", [Part(), Part(1, 20)])
def test_nothing_is_printed_of_a_sound_picture(capfd, part):
    decode(encoded("JPEG", picture(300, 400)), lambda _: part)
    assert capfd.readouterr() == ("", "")


WRONG = {  # chunks of a PNG as programs write them, each of which libpng warns of
    "iCCP": b"sRGB\0\0" + zlib.compress(bytes(40)),
    "sRGB": b"\x09",
    "gAMA": bytes(4),
    "cHRM": b"\xff" * 32,
    "pHYs": bytes(3),
    "tIME": bytes(7),
    "sBIT": b"\x63" * 3,
    "bKGD": bytes(1),
    "tEXt": b"",
    "zTXt": b"Comment\0\0broken",
    "iTXt": b"Comment",
    "sPLT": b"palette",
    "hIST": bytes(5),
}


@pytest.mark.parametrize("tail", [b"", 20_000 * (bytes(4) + b"IDAT" + bytes(4))])
def test_a_png_that_claims_more_bytes_than_it_has_is_given_to_no_decoder_that_allocates_them(
    monkeypatch, tail
):
    plain = encoded("PNG")
    at = plain.index(b"IDAT") - 4
    claiming = plain[:at] + tail + struct.pack(">I", 3_405_776_533) + plain[at + 4 :]
    expected = decode(plain)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("OpenCV allocates what is claimed"))
    np.testing.assert_array_equal(decode(claiming), expected)  # as all rows are there
    assert reason_of(claiming[:-60]) == "truncated"


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("kind", WRONG)
def test_nothing_is_printed_of_what_a_png_says_beside_its_pixels(capfd, kind, before):
    plain = encoded("PNG")
    content = kind.encode() + WRONG[kind]
    chunk = struct.pack(">I", len(WRONG[kind])) + content + struct.pack(">I", zlib.crc32(content))
    at = 33 if before else plain.rindex(b"IEND") - 4  # behind the header, or ahead of the end
    np.testing.assert_array_equal(decode(plain[:at] + chunk + plain[at:]), decode(plain))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("part", [Part(), Part(1, 20)])
def test_bytes_between_segments_are_skipped_whatever_is_needed(part):
    data, table = encoded("JPEG"), b"\xff\xdb"
    pixels = decode(data.replace(table, b"\0\0\0" + table, 1), lambda _: part)
    assert np.array_equal(pixels[:20], decode(data)[:20])


@pytest.mark.parametrize("part", [Part(), Part(1, 20)])
def test_an_unknown_segment_between_scans_is_refused(part):
    data, table = encoded("JPEG", progressive=True), b"\xff\xc4"
    head, tail = data.rsplit(table, 1)
    with pytest.raises(BadImage, match="truncated"):
        decode(head + b"\xff\x02" + tail, lambda _: part)


def test_a_second_header_is_not_believed():
    """Decoders take the last one, of 60,000 x 60,000 pixels, or none: memory stays small."""
    data = encoded("JPEG")
    start = data.find(b"\xff\xc0")
    frame = data[start : start + 19]
    other = frame[:5] + struct.pack(">HH", 60_000, 60_000) + frame[9:]
    for order in (frame + other, other + frame):
        tracemalloc.start()
        with pytest.raises(BadImage):
            decode(data[:start] + order + data[start + 19 :], lambda _: Part(1, 20))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1_000_000


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
def test_only_jpegs_are_reduced(kind):
    data = encoded(kind)
    assert np.array_equal(decode(data, lambda shape: Part(2)), decode(data))


def test_a_jpeg_to_be_reduced_is_checked_as_a_whole():
    jpeg = encoded("JPEG")
    place = jpeg.find(b"\xff\xc0") + 5
    bomb = jpeg[:place] + struct.pack(">HH", 50_000, 50_000) + jpeg[place + 4 :]
    for data, reason in ((bomb, "decompression_bomb"), (jpeg[:-200], "truncated")):
        with pytest.raises(BadImage) as caught:
            decode(data, lambda shape: Part(8))
        assert caught.value.reason == reason


@settings(deadline=None)
@given(
    st.tuples(st.integers(16, 3000), st.integers(16, 3000)),
    st.sampled_from([16, 64, 224, (32, 96)]),
    st.integers(0, 1000),
)
def test_the_largest_reduction_whose_box_holds_the_output(shape, size, seed):
    crop = RandomCrop(size=size)
    least = (size, size) if isinstance(size, int) else size
    divisor = reduction([crop, RandomFlip()], shape, lambda: generator(seed))

    def fits(divisor, *shapes):
        boxes = [crop.box(turned, generator(seed))[2:] for turned in shapes]
        return all(
            side >= divisor * low for box in boxes for side, low in zip(box, least, strict=True)
        )

    either = (shape, shape[::-1])
    assert divisor in (1, 2, 4, 8)
    assert divisor == 1 or fits(divisor, *either)
    assert divisor == 8 or not fits(2 * divisor, *either)
    if divisor > 1:  # the same box in the reduced image, but for the rounding of its sides
        box = crop.box(shape, generator(seed))
        other = crop.box((-(-shape[0] // divisor), -(-shape[1] // divisor)), generator(seed))
        assert np.abs(np.array(box) / divisor - other).max() <= 4


@settings(max_examples=60, deadline=None)
@given(st.tuples(st.integers(16, 200), st.integers(16, 200)), st.integers(0, 1000), st.data())
def test_a_crop_sees_all_that_it_needs(shape, seed, data):
    crop = RandomCrop(size=16, interpolation=data.draw(st.sampled_from(["linear", "cubic"])))
    jpeg = encoded("JPEG", picture(*shape))
    part = needed([crop], shape, lambda: generator(seed))
    whole = decode(jpeg, lambda _: Part(part.divisor))
    some = decode(jpeg, lambda _: part)
    expected = crop(whole, generator(seed), 0.0)
    assert np.array_equal(crop(some, generator(seed), 0.0), expected)
    assert part.rows is not None
    y, _, rows, _ = crop.box(whole.shape[:2], generator(seed))
    assert part.rows == y + rows


@pytest.mark.parametrize("operators", [(), (Resize(size=16),), (RandomFlip(), RandomCrop(size=16))])
def test_all_rows_are_needed_of_what_is_not_cropped_first(operators):
    assert needed(operators, (100, 100), lambda: generator(0)) == Part()


@pytest.mark.parametrize(
    "operators",
    [
        (),
        (Resize(size=16), RandomCrop(size=16)),
        (RandomFlip(), RandomCrop(size=16)),
        (RandomCrop(size=16, interpolation="nearest"),),
        (RandomCrop(size=16, interpolation="cubic"),),
    ],
)
def test_nothing_but_a_random_crop_that_averages_is_reduced_for(operators):
    assert reduction(operators, (1000, 1000), lambda: generator(0)) == 1


@pytest.mark.parametrize("orientation", [1, 6])
def test_training_images_are_nearly_those_of_the_whole_picture(tmp_path, orientation):
    names = [f"{number}.jpg" for number in range(8)]
    for name in names:
        data = encoded("JPEG", picture(300, 400), exif=oriented(orientation), quality=95)
        (tmp_path / name).write_bytes(data)
    images = loose_images(tmp_path, names, range(8))
    crop = RandomCrop(size=24, interpolation="area")
    (batch,) = TrainLoader(images, 8, 24, (crop,), 0, 1).batches(0, 0)
    whole, distances, others = decode((tmp_path / names[0]).read_bytes()), [], []
    for image, row in zip(batch.pixels.astype(int), batch.labels.tolist(), strict=True):
        draws = [generator(0, 0, names[row]) for _ in range(3)]
        expected = crop(whole, draws.pop(), 0.0).transpose(2, 0, 1)
        assert reduction((crop,), whole.shape[:2], draws.pop) > 1
        distances.append(np.abs(image - expected).mean())
        others.append(np.abs(image - crop(whole, generator(1), 0.0).transpose(2, 0, 1)).mean())
    # Boxes are in whole pixels of what is decoded, so shifted by up to one of the output's.
    assert np.mean(distances) < 8 < 30 < np.mean(others)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("TIFF", {})],
)
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_truncated(kind, options, part):
    data = encoded(kind, **options)
    assert reason_of(data[: int(len(data) * part)]) == "truncated"


KINDS = st.fixed_dictionaries(
    {"quality": st.integers(5, 100)},
    optional={
        "progressive": st.booleans(),
        "restart_marker_blocks": st.integers(1, 20),
        "subsampling": st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
        "exif": st.integers(1, 8).map(oriented),
    },
)


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(st.integers(16, 60), st.integers(16, 60), st.sampled_from(["RGB", "L", "CMYK"])),
    KINDS,
    st.sampled_from(["smooth", "noise", "one colour"]),
    st.one_of(st.integers(0, 9), st.integers(0, 5000)),
    st.integers(0, 99),
)
def test_a_jpeg_that_is_cut_is_refused_unless_all_rows_are_there(shape, kind, what, gone, zeros):
    """Behind the rows an encoder writes the end mark alone, of 2 bytes. Zeros are what a download
    that broke off is often filled up with."""
    height, width, mode = shape
    image = {
        "smooth": picture(height, width),
        "noise": np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8),
        "one colour": np.full((height, width, 3), 99, np.uint8),
    }[what]
    data = encoded("JPEG", image, mode, **kind)
    # The first half of the end mark and a zero would look like a byte FF of the rows.
    cut = data[: max(len(data) - gone, 2)] + bytes(0 if gone == 1 else zeros)
    if gone <= 2:
        assert np.array_equal(decode(cut), decode(data))
    else:
        behind_header = len(data) - gone > data.rfind(b"\xff\xda") + 20
        assert reason_of(cut) in ("truncated",) if behind_header else ("truncated", "not_an_image")


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_progressive_jpeg_without_its_last_scans_has_an_end_mark_or_is_cut(mode):
    data = encoded("JPEG", mode=mode, progressive=True)
    scans = [i for i in range(len(data)) if data[i : i + 2] == b"\xff\xda"]
    tables = data.rfind(b"\xff\xc4", 0, scans[-1])
    assert len(scans) > 3
    assert reason_of(data[:tables]) == reason_of(data[:tables] + bytes(99)) == "truncated"
    assert decode(data[:tables] + b"\xff\xd9").shape == (60, 80, 3)  # as its maker left it


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_blocks": 3}])
@pytest.mark.parametrize("orientation", [1, 6, 9])
def test_missing_rows_are_seen_whatever_mark_ends_them(mode, options, orientation):
    data = encoded("JPEG", mode=mode, exif=oriented(orientation), **options)
    for gone in range(20, 300, 7):
        assert reason_of(data[:-gone] + b"\xff\xd9") == "truncated"


@pytest.mark.parametrize(
    ("kind", "options", "behind"),
    [("PNG", {}, 12), ("GIF", {}, 2), ("PNG", {"compress_level": 0}, 12)],
)
def test_other_pictures_need_no_end_mark_either(kind, options, behind):
    data = encoded(kind, **options)
    for gone in range(1, len(data) - 100, 1 if len(data) < 5000 else 37):
        if gone <= behind:
            assert np.array_equal(decode(data[:-gone]), decode(data))
            continue
        try:
            assert np.array_equal(decode(data[:-gone]), decode(data))
        except BadImage as error:
            assert error.reason in ("truncated", "not_an_image")


def odd_webp():
    """A lossless WebP whose one chunk has an odd length, and so a padding byte."""
    for width in range(20, 99):
        data = encoded("WEBP", picture(40, width), lossless=True)
        if data[16] % 2:
            return data
    raise AssertionError("none is odd")


@pytest.mark.parametrize(
    ("gone", "declared"), [(0, -1), (0, 1), (0, 2), (0, 8), (1, 0), (1, 1), (1, 2), (1, 8)]
)
def test_a_webp_needs_neither_its_padding_nor_a_true_length(gone, declared):
    data = odd_webp()
    assert np.array_equal(decode(data + b"x"), decode(data))
    end = len(data) - gone
    size = (end - 8 + declared).to_bytes(4, "little")
    assert np.array_equal(decode(data[:4] + size + data[8:end]), decode(data))
    assert reason_of(data[:4] + size + data[8 : end - 2]) == "truncated"


FULL = st.binary(max_size=9).map(lambda part: (part + b"\xff") * 4000)  # of what may be a marker


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0xE1, 0xE2, 0xED, 0xFE]), FULL), min_size=1, max_size=3),
    st.sampled_from([{}, {"progressive": True}]),
)
def test_markers_inside_of_segments_do_not_count(segments, options):
    jpeg = encoded("JPEG", **options)
    data = jpeg[:2]
    for marker, body in segments:
        data += struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
    for end in (None, -2):
        assert np.array_equal(decode(data + jpeg[2:end]), decode(jpeg))


def test_restart_markers_do_not_count():
    grey = encoded("JPEG", np.full((480, 640, 3), 128, np.uint8), "L", restart_marker_blocks=1)
    assert grey.count(b"\xff") > len(grey) // 4
    assert (decode(grey) == 128).all()


@pytest.mark.parametrize("marker", [0xE0, 0xE1, 0xE2, 0xFE])
@pytest.mark.parametrize("length", [2, 14, 100])
@pytest.mark.parametrize("place", ["head", "among scans"])
def test_thousands_of_segments_are_refused(marker, length, place):
    jpeg = encoded("JPEG", progressive=True)
    at = 2 if place == "head" else jpeg.rfind(b"\xff\xc4")
    segments = (struct.pack(">BBH", 0xFF, marker, length) + bytes(length - 2)) * 3000
    assert reason_of(jpeg[:at] + segments + jpeg[at:]) == "not_an_image"


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


def test_want_of_memory_is_no_damage(monkeypatch):
    lacking = cv2.error("Insufficient memory")
    lacking.code, lacking.err = NO_MEMORY, "Failed to allocate 12 bytes"
    monkeypatch.setattr(cv2, "imdecode", Mock(side_effect=lacking))
    for data in (encoded("PNG"), encoded("WEBP")):
        with pytest.raises(MemoryError, match="Failed to allocate"):
            decode(data)


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
