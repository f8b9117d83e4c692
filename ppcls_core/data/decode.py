"""Image file to pixels, or a named reason why not. Nothing else here decodes image files."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import numpy as np

MIN_SIDE = 16  # pixels; smaller pictures carry no class
MAX_PIXELS = 100_000_000  # decompression bombs are refused from their header, before any allocation

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
JPEGS = ("JPEG", "MPO")  # a camera's MPO is a JPEG with more of them behind it

Reason = Literal["missing", "empty", "not_an_image", "truncated", "too_small", "decompression_bomb"]
REASONS: tuple[str, ...] = get_args(Reason)
Reduction = Callable[[tuple[int, int]], int]  # of a (height, width), which EXIF may yet turn


class BadImage(Exception):
    """An image that cannot be used: `reason` is one of REASONS, `detail` what was found."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def read_bytes(path: Path) -> bytes:
    """Content of an image file. Raises BadImage (`missing`, `empty`)."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise BadImage("missing", getattr(error, "strerror", None) or str(error)) from error
    if not data:
        raise BadImage("empty", "the file has 0 bytes")
    return data


def decode(data: bytes, reduction: Reduction | None = None) -> np.ndarray:
    """Pixels of an encoded image: uint8 RGB [H, W, 3], EXIF orientation applied, alpha dropped.

    Of a TIFF alpha is not dropped but blended with black. With `reduction` a JPEG's sides are
    divided by what that gives (1, 2, 4 or 8), rounded up: low frequencies alone are decoded.

    Raises:
        BadImage: `not_an_image`, `truncated`, `too_small` or `decompression_bomb`.
    """
    width, height, kind = _header(data)
    if width * height > MAX_PIXELS:
        raise BadImage("decompression_bomb", f"{width} x {height} pixels, at most {MAX_PIXELS:,}")
    if min(width, height) < MIN_SIDE:
        raise BadImage("too_small", f"{width} x {height} pixels, at least {MIN_SIDE} a side")
    if not _is_whole(data, kind):
        raise BadImage("truncated", f"the {kind} data end before the picture does")
    try:
        # The limits above hold for the whole picture, whatever is decoded of it.
        divisor = reduction((height, width)) if reduction and kind in JPEGS else 1
        image = cv2.imdecode(np.frombuffer(data, np.uint8), READ_AS[divisor])
    except cv2.error as error:
        raise BadImage("not_an_image", f"OpenCV cannot decode this {kind}") from error
    if image is None:
        raise BadImage("truncated", f"the {kind} header is readable, its pixels are not")
    return image


def read_image(path: Path, reduction: Reduction | None = None) -> np.ndarray:
    """Pixels of the image file `path`, as `decode` gives them. Raises BadImage."""
    return decode(read_bytes(path), reduction)


def _header(data: bytes) -> tuple[int, int, str]:
    """(width, height, format) from the header alone."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.width, image.height, image.format or "unknown"
    except Exception as error:
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and not _is_whole(data, "WEBP"):
            raise BadImage("truncated", "the WEBP data end before the picture does") from error
        raise BadImage("not_an_image", "no known image header") from error


def _is_whole(data: bytes, kind: str) -> bool:
    """Whether the end of the picture is there; decoders fill what is missing with grey."""
    if kind in JPEGS:  # from the end, where it is: searching 100 KB forwards takes 70 us
        return data.rfind(b"\xff\xd9", _jpeg_scan_start(data)) >= 0
    if kind == "PNG":
        return data.rfind(b"IEND") >= 0
    if kind == "WEBP":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return True


def _jpeg_scan_start(data: bytes) -> int:
    """Offset of the first scan: a thumbnail inside an EXIF segment has an end marker of its own."""
    position = 2
    while 0 <= position <= len(data) - 4:
        if data[position] != 0xFF:  # bytes between segments, which decoders skip
            position = data.find(b"\xff", position)
            continue
        marker = data[position + 1]
        if marker == 0xDA:
            return position
        if marker == 0xFF or 0xD0 <= marker <= 0xD8 or marker == 0x01:  # fill byte, no length field
            position += 1 if marker == 0xFF else 2
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return len(data)
