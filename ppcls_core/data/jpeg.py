"""What a JPEG says of itself before its pixels begin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; others are hardly ever met
APP1, SCAN = 0xE1, 0xDA
ORIENTATION = 0x112  # an EXIF tag


@dataclass(frozen=True)
class Frame:
    """Size and kind of the picture that follows."""

    height: int
    width: int
    components: int  # 1 grey, 3 colours, 4 CMYK
    height_at: int  # offset of the height, two bytes
    scan_at: int  # offset of the first scan, behind all thumbnails
    upright: bool  # EXIF does not ask to turn or mirror it


def frame_of(data: bytes) -> Frame | None:
    """The frame of a JPEG of 8 bits in Huffman code; None of other data."""
    if data[:2] != b"\xff\xd8":
        return None
    start, upright = None, True
    for marker, at in _segments(data):
        if marker in FRAMES and data[at + 2] == 8:
            start = at
        elif marker == APP1:
            length = int.from_bytes(data[at : at + 2], "big")
            upright = upright and not _turns(data[at + 8 : at + length])
        elif marker == SCAN and start is not None:
            height, width = (int.from_bytes(data[start + n : start + n + 2], "big") for n in (3, 5))
            return Frame(height, width, data[start + 7], start + 3, at, upright)
    return None


def scan_start(data: bytes) -> int:
    """Offset of the first scan of any JPEG."""
    return next((at for marker, at in _segments(data) if marker == SCAN), len(data))


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, offset of its length field) up to the first scan's, which is the last."""
    position = 2
    while 0 <= position <= len(data) - 12:  # the shortest of those looked at takes 12 bytes
        if data[position] != 0xFF:  # bytes between segments, which decoders skip
            position = data.find(b"\xff", position)
            continue
        marker = data[position + 1]
        if marker == 0xFF or 0xD0 <= marker <= 0xD8 or marker == 0x01:  # fill byte, no length field
            position += 1 if marker == 0xFF else 2
            continue
        yield marker, position + 2
        if marker == SCAN:
            return
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")


def _turns(tiff: bytes) -> bool:
    """Whether the first directory of a TIFF block, which EXIF is, has an orientation but 1."""
    number = partial(int.from_bytes, byteorder="little" if tiff[:2] == b"II" else "big")
    start = number(tiff[4:8])
    end = start + 2 + 12 * number(tiff[start : start + 2])
    tags = (tiff[at : at + 12] for at in range(start + 2, min(end, len(tiff)), 12))
    return any(number(tag[:2]) == ORIENTATION and number(tag[8:10]) != 1 for tag in tags)
