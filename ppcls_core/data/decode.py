"""Image file to pixels, or a named reason why not. Nothing else here decodes image files."""

import io
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from simplejpeg import decode_jpeg, decode_jpeg_header

from data_catalog.images.columns import Made, Member, Source
from data_catalog.images.formats import HEAD, kind_of_bytes
from ppcls_core.data.jpeg import Frame, frame_of, sends_all

MIN_SIDE = 16  # pixels; smaller pictures carry no class
MAX_PIXELS = 100_000_000  # decompression bombs are refused from their header, before any allocation
MAX_BYTES = 1 << 30  # of a file; more than any picture within the limit of pixels takes
MAX_CHUNKS = 10_000  # of a WebP, walked through to find a missing byte; of a PNG, to leave some out
MAX_SCANS = 100  # of a progressive JPEG, which has about 10

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))  # read once, at cv2's import

import cv2  # noqa: E402 - after its setting
from PIL import Image, ImageOps  # noqa: E402
from PIL.ImageFile import ImageFile  # noqa: E402
from PIL.TiffImagePlugin import TiffImageFile  # noqa: E402

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
FORMATS = ("PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # those that OpenCV reads as well
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB")  # Pillow's modes
BITS_PER_SAMPLE = 258  # a TIFF tag
PNG = b"\x89PNG\r\n\x1a\n"
PNG_CHUNKS = (b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT")  # without which pixels may be others
LEFT_OVER = "extraneous bytes before marker"  # libjpeg's warning of what follows the last row,
# and of blocks that it paints grey, where it meets another marker than the restart's.
FILLED_IN = re.compile("premature end of data segment|found marker 0x(?!d[0-7])")
UNKNOWN = "no known image header"
END_MARK = b"\xff\xd9"
NO_MEMORY = -4  # of OpenCV's errors

Reason = Literal[
    "missing", "empty", "not_an_image", "truncated", "too_small", "decompression_bomb", "unlabelled"
]
REASONS: tuple[str, ...] = get_args(Reason)


@dataclass(frozen=True)
class Part:
    """The part of a JPEG that has to be decoded."""

    divisor: int = 1  # of its sides, rounded up: 1, 2, 4 or 8; low frequencies alone
    rows: int | None = None  # of what that gives, from the top; None: all


Needed = Callable[[tuple[int, int]], Part]  # of a (height, width), which EXIF may yet turn


@dataclass(frozen=True)
class Decoded:
    """Pixels of an image file, uint8 RGB [H, W, 3], and what of the file they do not show.

    `dropped`: `alpha` (parts are transparent and laid on white), `frames` (pages or pictures behind
    the first), `depth` (bits beyond the upper 8), `colours` (of CMYK or Lab beyond RGB). Files of
    equal pixels may differ in these.
    """

    pixels: np.ndarray
    dropped: tuple[str, ...]


class BadImage(Exception):
    """An image that cannot be used: `reason` is one of REASONS, `detail` what was found."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def read_bytes(source: Source) -> bytes:
    """The bytes of an image file, wherever it is. Raises BadImage: `missing`, `empty`, `truncated`
    (a tar that ends within it), `decompression_bomb`."""
    if isinstance(source, Made):
        return source.make()
    path = source if isinstance(source, Path) else source.archive
    try:
        # By descriptor: a file object costs five more calls that give up Python's lock, each of
        # which a training step may wait for. A pipe without writer would block its opening.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
                raise BadImage("missing", "no regular file")
            offset, size = source[1:] if isinstance(source, Member) else (0, status.st_size)
            if size > MAX_BYTES:
                raise BadImage("decompression_bomb", f"{size:,} bytes, at most {MAX_BYTES:,}")
            data = os.pread(file, size, offset)
        finally:
            os.close(file)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise BadImage("missing", getattr(error, "strerror", None) or str(error)) from error
    if not size:
        raise BadImage("empty", "the file has 0 bytes")
    if len(data) < size:
        raise BadImage("truncated", f"{path.name} ends within it")
    return data


def decode(data: bytes, needed: Needed | None = None, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Pixels of an encoded image: uint8 RGB [H, W, 3], EXIF orientation applied, transparent parts
    laid on white, as browsers do.

    A file needs no end mark where its rows are all there. Of a JPEG with `needed` only the part
    that this gives is there for sure: rows under it may be black, and damage there goes unnoticed.
    Raises BadImage: `not_an_image`, `truncated`, `too_small` or `decompression_bomb`.
    """
    return decoded(data, needed, max_pixels).pixels


def decoded(data: bytes, needed: Needed | None = None, max_pixels: int = MAX_PIXELS) -> Decoded:
    """The pixels that `decode` gives, and what they do not show. Raises BadImage."""
    if data.startswith(b"\xff\xd8"):
        return _of_jpeg(data, needed, max_pixels)
    is_webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    data = _mended_webp(data) if is_webp else _plain_png(data)
    if is_webp and (size := _plain_webp_size(data)):
        _check_size(*size, max_pixels)
        if (pixels := _by_opencv(data, 1)) is not None:
            return Decoded(pixels, ())
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:
        if is_webp:
            raise BadImage("truncated", "the WEBP data end before the picture does") from error
        is_unread = kind_of_bytes(data[:HEAD]) == "unread_format"
        detail = "HEIC, AVIF, JPEG XL or JPEG 2000, which are not read" if is_unread else UNKNOWN
        raise BadImage("not_an_image", detail) from error
    with image:
        _check_size(image.width, image.height, max_pixels)
        return _of_other(data, image)


def read_image(source: Source, needed: Needed | None = None) -> np.ndarray:
    """Pixels of an image file, as `decode` gives them. Raises BadImage."""
    return decode(read_bytes(source), needed)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse a picture over the limits, which hold for the whole, whatever is decoded of it."""
    if width * height > max_pixels:
        raise BadImage("decompression_bomb", f"{width} x {height} pixels, at most {max_pixels:,}")
    if min(width, height) < MIN_SIDE:
        raise BadImage("too_small", f"{width} x {height} pixels, at least {MIN_SIDE} a side")


def _of_jpeg(data: bytes, needed: Needed | None, max_pixels: int) -> Decoded:
    most = 1000 + len(data) // 10_000  # segments have up to 65,535 bytes
    frame = frame_of(data, most)
    if frame is None:
        raise BadImage("not_an_image", UNKNOWN)
    _check_markers(data, frame, most)
    _check_size(frame.width, frame.height, max_pixels)
    if not (frame.is_ended or sends_all(data, frame)):
        raise BadImage("truncated", "the JPEG data end before the picture does")
    part = needed((frame.height, frame.width)) if needed else Part()
    data = data if frame.is_ended else _ended(data)
    if not frame.is_ended or frame.orientation != 1:
        part = Part(part.divisor)
    dropped = _chosen(
        frames=frame.has_more_pictures, depth=frame.depth > 8, colours=frame.components == 4
    )
    return Decoded(_jpeg_pixels(data, frame, part), dropped)


def _chosen(**names: bool) -> tuple[str, ...]:
    return tuple(name for name, is_so in names.items() if is_so)


def _check_markers(data: bytes, frame: Frame, max_segments: int) -> None:
    """Refuse a JPEG that is small but takes minutes: of each marker it costs a step to read it, of
    each scan the time of the whole picture."""
    filling = 0 if frame.is_ended else data.count(b"\xff\xff", frame.scans[-1])
    if frame.num_segments > max_segments or filling > 1000 + len(data) // 16:
        raise BadImage("not_an_image", "a JPEG of more markers than picture")
    if len(frame.scans) > MAX_SCANS:
        raise BadImage("decompression_bomb", f"a JPEG of more than {MAX_SCANS} scans")


def _ended(data: bytes) -> bytes:
    """The JPEG with an end mark where its coded rows end, so that libjpeg warns of missing blocks
    alone; not behind zeros, which fill up partial downloads."""
    rows = data.rstrip(b"\0")
    stuffed = rows.endswith(b"\xff") and rows != data  # FF 00 is a byte of the rows
    return rows + b"\0" * stuffed + END_MARK


def _jpeg_pixels(data: bytes, frame: Frame, part: Part) -> np.ndarray:
    """Those of TurboJPEG, which says whether blocks were missing, else of OpenCV."""
    by_turbo = frame.components in (1, 3) and frame.orientation > 0
    try:
        if by_turbo:
            return _turned(_by_turbojpeg(data, frame, part), frame.orientation)
        colours = "CMYK" if frame.components == 4 else "GRAY"
        decode_jpeg(data, colours, min_height=1, min_width=1)  # the smallest, for its warnings
    except ValueError as error:
        # Of other damage OpenCV makes what it can; but the first warning hides later ones.
        warning = str(error)
        proven = frame.is_ended and (LEFT_OVER not in warning or sends_all(data, frame))
        if FILLED_IN.search(warning) or not proven:
            raise BadImage("truncated", "the JPEG data end before the picture does") from error
    image = _by_opencv(data, part.divisor)
    if image is None:
        raise BadImage("truncated", "the JPEG header is readable, its pixels are not")
    return image


def _by_turbojpeg(data: bytes, frame: Frame, part: Part) -> np.ndarray:
    """`part` of a JPEG, not turned; black under it: the header is made to say that it ends there.

    So the rest is not decoded. Pixels are OpenCV's, which has the same decoder; but that prints a
    warning of the bytes left over. Raises ValueError: TurboJPEG refuses the data, or warns of more
    than bytes left over.
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


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """The upright picture; `orientation` as in EXIF, 1 to 8."""
    if orientation > 4:
        image = cv2.transpose(image)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return image if flip is None else cv2.flip(image, flip)


def _by_opencv(data: bytes, divisor: int) -> np.ndarray | None:
    if data.startswith(PNG) and _claims_more(data):
        return None
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), READ_AS[divisor])
    except cv2.error as error:
        if error.code == NO_MEMORY:  # which says nothing of the file
            raise MemoryError(error.err) from None
        return None


def _plain_png(data: bytes) -> bytes:
    """PNG data without the chunks that do not decide the pixels; other data as they are.

    Programs write many wrong ones, of which libpng prints warnings, and for some of which Pillow
    refuses the picture.
    """
    if not data.startswith(PNG):
        return data
    kept, start = list[bytes](), 0
    for kind, at, end in islice(_png_chunks(data), MAX_CHUNKS):
        if end > len(data):
            break
        if kind[:1].islower() and kind not in PNG_CHUNKS:
            kept.append(data[start:at])
            start = end
    return b"".join([*kept, data[start:]]) if kept else data


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each chunk of a PNG; the last may end beyond the data."""
    at = 8
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], at, end
        at = end


def _claims_more(data: bytes) -> bool:
    """Whether a chunk of a PNG says that it has more bytes than there are. OpenCV refuses that too,
    but allocates them before, up to 4 GB."""
    most = MAX_CHUNKS + len(data) // 1024  # chunks are larger, but for those of an attack
    for number, (kind, _, end) in enumerate(_png_chunks(data)):
        if kind == b"IEND":
            return False
        if end > len(data) or number == most:
            return True
    return False


def _mended_webp(data: bytes) -> bytes:
    """The file with the padding byte of its last chunk, which some writers omit, and with the true
    length in its header. libwebp asks for both; it sees itself what else is missing."""
    declared = 8 + int.from_bytes(data[4:8], "little")
    if declared % 2 == 0 and declared <= len(data):
        return data
    end, size = 12, 0
    for _ in range(MAX_CHUNKS):
        if end >= min(declared, len(data)):
            break
        size = int.from_bytes(data[end + 4 : end + 8], "little")
        end += 8 + size + size % 2
    padding = b"\0" if size % 2 and end == len(data) + 1 else b""
    return data[:4] + (end - 8).to_bytes(8, "little")[:4] + data[8:] + padding


def _plain_webp_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a WebP that is one lossy picture and nothing else, as most are; None of
    any other. Pillow needs half as long as the decoder to find out, and keeps Python's lock."""
    length = int.from_bytes(data[16:20], "little")
    is_plain = data[12:16] == b"VP8 " and data[23:26] == b"\x9d\x01\x2a"
    if not is_plain or 20 + length + length % 2 != len(data) or data[20] & 1:  # no key frame
        return None
    width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    return width, height


def _of_other(data: bytes, image: ImageFile) -> Decoded:
    """The picture of encoded `data`, opened as `image`."""
    is_deep = image.mode not in EIGHT_BITS or _depth(data, image) > 8
    on_white = _on_white(image) if image.has_transparency_data else None
    pixels = _by_opencv(data, 1) if on_white is None else np.array(on_white)
    if pixels is None:
        # A PNG, GIF or BMP that lacks bytes behind its last row. Pillow fills nothing in.
        picture = _by_pillow(image, "RGB")
        if picture is None:
            detail = f"the {image.format} header is readable, its pixels are not"
            raise BadImage("truncated", detail)
        pixels = np.array(picture)
    try:
        has_more = getattr(image, "is_animated", False)
    except Exception:  # noqa: BLE001 - the next frame is damaged
        has_more = True
    is_other = image.mode in ("CMYK", "LAB")
    alpha = on_white is not None
    return Decoded(pixels, _chosen(alpha=alpha, frames=has_more, depth=is_deep, colours=is_other))


def _by_pillow(image: ImageFile, mode: str) -> Image.Image | None:
    """The upright picture in `mode`; None where it is not all there, or of more than 8 bits."""
    try:
        upright = ImageOps.exif_transpose(image)
        return upright.convert(mode) if upright.mode in EIGHT_BITS else None
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - of many kinds in damaged files
        return None


def _on_white(image: ImageFile) -> Image.Image | None:
    """A picture laid on white; None where nothing is transparent."""
    picture = _by_pillow(image, "RGBA")
    if picture is None or picture.getchannel("A").getextrema() == (255, 255):
        return None
    ground = Image.new("RGB", picture.size, "white")
    ground.paste(picture, mask=picture)
    return ground


def _depth(data: bytes, image: ImageFile) -> int:
    """Bits a sample, which Pillow's mode does not give for colours."""
    if image.format == "PNG":
        return data[24]
    if isinstance(image, TiffImageFile):
        return max(image.tag_v2.get(BITS_PER_SAMPLE, (8,)))
    if image.format == "PPM" and image.tile[0].codec_name != "raw":
        return 16  # or fewer: a greatest value but 255
    return 8
