"""Image file to pixels, or a named reason why not. Nothing else here decodes image files."""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from simplejpeg import decode_jpeg, decode_jpeg_header

from data_catalog.images.columns import Made, Member, Source
from ppcls_core.data.jpeg import Frame, frame_of, scan_start

MIN_SIDE = 16  # pixels; smaller pictures carry no class
MAX_PIXELS = 100_000_000  # decompression bombs are refused from their header, before any allocation
MAX_BYTES = 1 << 30  # of a file; more than any picture within the limit of pixels takes
MAX_SCANS = 100  # of a progressive JPEG, which has about 10

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))  # read once, at cv2's import

import cv2  # noqa: E402 - after its setting
from PIL import Image  # noqa: E402

# Set once for the process: `warnings.catch_warnings` around each call is not safe among threads.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # BadImage says what is wrong
warnings.filterwarnings("ignore", module="PIL")
Image.MAX_IMAGE_PIXELS = None  # `decode` has its own limit, and opening reads the header alone
READ_AS = {  # by the reduction
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB,  # not grey: the other flag wins
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB,
}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # those that OpenCV reads as well
LEFT_OVER = "extraneous bytes before marker"  # libjpeg's warning of what follows the last row
JPEGS = ("JPEG", "MPO")  # a camera's MPO is a JPEG with more of them behind it

Reason = Literal["missing", "empty", "not_an_image", "truncated", "too_small", "decompression_bomb"]
REASONS: tuple[str, ...] = get_args(Reason)


@dataclass(frozen=True)
class Part:
    """What of a JPEG has to be decoded."""

    divisor: int = 1  # of its sides, rounded up: 1, 2, 4 or 8; low frequencies alone
    rows: int | None = None  # of what that gives, from the top; None: all


Needed = Callable[[tuple[int, int]], Part]  # of a (height, width), which EXIF may yet turn


class BadImage(Exception):
    """An image that cannot be used: `reason` is one of REASONS, `detail` what was found."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def read_bytes(source: Source) -> bytes:
    """The bytes of an image file, wherever it is.

    Raises:
        BadImage: `missing`, `empty`, `truncated` (a tar that ends within it), `decompression_bomb`.
    """
    if isinstance(source, Made):
        return source.make()
    path = source if isinstance(source, Path) else source.archive
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
                raise BadImage("missing", "no regular file")
            offset, size = source[1:] if isinstance(source, Member) else (0, status.st_size)
            if size > MAX_BYTES:
                raise BadImage("decompression_bomb", f"{size:,} bytes, at most {MAX_BYTES:,}")
            data = os.pread(file.fileno(), size, offset)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise BadImage("missing", getattr(error, "strerror", None) or str(error)) from error
    if not size:
        raise BadImage("empty", "the file has 0 bytes")
    if len(data) < size:
        raise BadImage("truncated", f"{path.name} ends within it")
    return data


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe without writer would block its opening


def decode(data: bytes, needed: Needed | None = None, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Pixels of an encoded image: uint8 RGB [H, W, 3], EXIF orientation applied, alpha dropped.

    Of a TIFF alpha is not dropped but blended with black. Of a JPEG with `needed` only the part
    that this gives is there for sure: rows under it may be black, and damage there is not seen.

    Raises:
        BadImage: `not_an_image`, `truncated`, `too_small` or `decompression_bomb`.
    """
    _check_markers(data)
    frame = frame_of(data)
    width, height, kind = (frame.width, frame.height, "JPEG") if frame else _header(data)
    if width * height > max_pixels:
        raise BadImage("decompression_bomb", f"{width} x {height} pixels, at most {max_pixels:,}")
    if min(width, height) < MIN_SIDE:
        raise BadImage("too_small", f"{width} x {height} pixels, at least {MIN_SIDE} a side")
    if not _is_whole(data, kind, frame):
        raise BadImage("truncated", f"the {kind} data end before the picture does")
    # The limits above hold for the whole picture, whatever is decoded of it.
    part = needed((height, width)) if needed and kind in JPEGS else Part()
    if frame and frame.upright and frame.components in (1, 3):
        try:
            return _by_turbojpeg(data, frame, part)
        except ValueError:
            pass  # OpenCV says what is wrong, or reads it all the same
    return _by_opencv(data, kind, part.divisor)


def read_image(source: Source, needed: Needed | None = None) -> np.ndarray:
    """Pixels of an image file, as `decode` gives them. Raises BadImage."""
    return decode(read_bytes(source), needed)


def _by_turbojpeg(data: bytes, frame: Frame, part: Part) -> np.ndarray:
    """`part` of an upright JPEG, and black under it: the header is made to say that it ends there.

    So the rest is not looked at. Pixels are OpenCV's, which has the same decoder; but that prints a
    warning of the bytes left over.

    Raises:
        ValueError: TurboJPEG refuses the data, or warns of more than bytes left over.
    """
    height, width = (-(-side // part.divisor) for side in (frame.height, frame.width))
    end = frame.height  # where the header says that the picture ends
    if part.rows is not None:  # one more: colours are interpolated between rows
        end = min(end, (part.rows + 1) * part.divisor)
    shorter = bytearray(data)
    shorter[frame.height_at : frame.height_at + 2] = end.to_bytes(2, "big")
    rows = -(-end // part.divisor)
    image = np.empty((height, width, 3), np.uint8)
    image[rows:] = 0
    if decode_jpeg_header(shorter, rows, width)[:2] != (rows, width):
        raise ValueError("another header is in force")
    try:
        decode_jpeg(shorter, min_height=rows, min_width=width, buffer=image[:rows])
    except ValueError as error:  # the first warning, given after decoding, or what stopped it
        if end == frame.height or LEFT_OVER not in str(error):
            raise
    return image


def _by_opencv(data: bytes, kind: str, divisor: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), READ_AS[divisor])
    except cv2.error as error:
        raise BadImage("not_an_image", f"OpenCV cannot decode this {kind}") from error
    if image is None:
        raise BadImage("truncated", f"the {kind} header is readable, its pixels are not")
    return image


def _check_markers(data: bytes) -> None:
    """Refuse a JPEG that is small but takes minutes: of each marker it costs a step to read it, of
    each scan the time of the whole picture."""
    if not data.startswith(b"\xff\xd8"):
        return
    if data.count(b"\xff") > 1000 + len(data) // 16:
        raise BadImage("not_an_image", "a JPEG of more markers than picture")
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise BadImage("decompression_bomb", f"a JPEG of more than {MAX_SCANS} scans")


def _header(data: bytes) -> tuple[int, int, str]:
    """(width, height, format) from the header alone."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.width, image.height, image.format or "unknown"
    except Exception as error:
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and not _is_whole(data, "WEBP"):
            raise BadImage("truncated", "the WEBP data end before the picture does") from error
        raise BadImage("not_an_image", "no known image header") from error


def _is_whole(data: bytes, kind: str, frame: Frame | None = None) -> bool:
    """Whether the end of the picture is there; decoders fill what is missing with grey."""
    if kind in JPEGS:  # from the end, where it is: searching 100 KB forwards takes 70 us
        return data.rfind(b"\xff\xd9", frame.scan_at if frame else scan_start(data)) >= 0
    if kind == "PNG":
        return data.rfind(b"IEND") >= 0
    if kind == "WEBP":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return True
