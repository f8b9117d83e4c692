"""Facts of a JPEG that its markers give, without decoding it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

APP1, APP2, SCAN, END = 0xE1, 0xE2, 0xDA, 0xD9
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # those three begin no frame
HUFFMAN = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; others are hardly ever met
PROGRESSIVE = 0xC2
ORIENTATION, SHORT = 0x112, 3  # an EXIF tag, and its type
MAX_TAGS = 500  # that are read; they are sorted, and orientation is among the first
NUM_COEFFICIENTS = 64  # of a block
SHORTEST = 8  # bytes of the shortest segment that is read here
# Not FF 00, which among coded rows is a byte FF, nor restart markers (D0 to D7), nor what has no
# length field (01, D8). `re` passes over these, and over filling (FF FF), at C's speed.
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")


@dataclass(frozen=True)
class Frame:
    """Size and kind of the picture, and how much of it its markers announce."""

    height: int
    width: int
    components: int  # 1 grey, 3 colours, 4 CMYK
    depth: int  # bits a sample
    height_at: int  # offset of the height, two bytes
    orientation: int  # by EXIF: 1 upright, 2 to 8 mirrored or turned; 0 where tags are odd
    has_more_pictures: bool  # behind it, by a Multi-Picture index: MPO, gain maps
    num_segments: int  # at most one more than asked for
    scans: tuple[int, ...]  # offsets of their headers
    is_ended: bool  # by an end mark


def frame_of(data: bytes, max_segments: int) -> Frame | None:
    """The frame of a JPEG, whose segments are read up to `max_segments` and one more.

    None where data are no JPEG or end before the first scan.
    """
    if data[:2] != b"\xff\xd8":
        return None
    start, scans, tags, has_more, number, marker = None, list[int](), list[int](), False, 0, 0
    for number, (marker, at) in enumerate(_segments(data), 1):
        if marker in FRAMES and not scans:
            start = at
        elif marker == APP1 and not scans:
            length = int.from_bytes(data[at : at + 2], "big")
            tags += _orientations(data[at + 8 : at + length])
        elif marker == APP2:
            has_more = has_more or data[at + 2 : at + 6] == b"MPF\0"
        elif marker == SCAN:
            scans.append(at)
        if number > max_segments or (scans and start is None):
            break
    if start is None or not scans:
        return None
    return Frame(
        height=int.from_bytes(data[start + 3 : start + 5], "big"),
        width=int.from_bytes(data[start + 5 : start + 7], "big"),
        components=data[start + 7],
        depth=data[start + 2],
        height_at=start + 3,
        orientation=tags[0] if len(tags) == 1 else int(set(tags) <= {1}),
        has_more_pictures=has_more,
        num_segments=number,
        scans=tuple(scans),
        is_ended=marker == END,
    )


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, offset behind it) of the segments that are there as a whole, and of the end mark.
    What looks like a marker inside a segment is none."""
    position = 2
    while found := _MARKER.search(data, position):  # between segments decoders skip any bytes
        position = found.end()
        marker = data[position - 1]
        if marker == END:
            yield marker, position
            return
        length = int.from_bytes(data[position : position + 2], "big")
        if position + max(length, SHORTEST) <= len(data):
            yield marker, position
        position += length


def sends_all(data: bytes, frame: Frame) -> bool:
    """Whether the scans send every bit of every coefficient: a JPEG that is cut between two scans
    has all rows, but coarse or grey ones.

    False but for 8 bits in Huffman code, as other decoders do not say what they fill in.
    """
    kind = data[frame.height_at - 4]
    if kind not in HUFFMAN or frame.depth != 8:
        return False
    unsent: dict[tuple[int, int], int] = {}  # (component, coefficient) -> low bits to come
    for at in frame.scans:
        first, last, bits = 0, NUM_COEFFICIENTS - 1, 0
        behind = at + 3 + 2 * data[at + 2]
        if at + int.from_bytes(data[at : at + 2], "big") != behind + 3:
            return False
        if kind == PROGRESSIVE:
            first, last, bits = data[behind : behind + 3]
        for component in data[at + 3 : behind : 2]:
            for number in range(first, last + 1):
                unsent[component, number] = bits & 15
    return len(unsent) == frame.components * NUM_COEFFICIENTS and not any(unsent.values())


def _orientations(tiff: bytes) -> Iterator[int]:
    """Values of the orientation tags in the first directory of a TIFF block, which EXIF is: 1 to 8,
    and 0 for any other value or type."""
    number = partial(int.from_bytes, byteorder="little" if tiff[:2] == b"II" else "big")
    start = number(tiff[4:8])
    end = start + 2 + 12 * min(number(tiff[start : start + 2]), MAX_TAGS)
    for tag in (tiff[at : at + 12] for at in range(start + 2, min(end, len(tiff)), 12)):
        if number(tag[:2]) == ORIENTATION:
            value = number(tag[8:10])
            is_plain = number(tag[2:4]) == SHORT and number(tag[4:8]) == 1
            yield value if value == 1 or (is_plain and value <= 8) else 0
