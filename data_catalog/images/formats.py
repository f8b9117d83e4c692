"""Which files are images and which are tars: by their first bytes, and where those may be damaged
by their names."""

import re
from collections.abc import Callable
from typing import Literal

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
IMAGE_SUFFIXES = (*_JPEG, ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
HEAD = 512  # bytes of a file that `kind_of_bytes` needs

Kind = Literal["image", "tar", "compressed_tar", "unread_format", "not_an_image"]

_IMAGE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|II[*+]\0|MM\0[*+]|P[1-6]\s"
    # "BM" alone begins many a text: the reserved bytes are 0, then come two offsets.
    rb"|BM....\0\0\0\0..\0\0[\x0c-\x7c]\0\0\0",
    re.DOTALL,
)
# Photographs come in these too, and nothing here reads them: HEIC, AVIF, JPEG XL, JPEG 2000.
_UNREAD = re.compile(
    rb"....ftyp(?:hei[cfmsx]|hev[cmsx]|mif[12]|msf1|avi[fs]|jxl |jp2 )"
    rb"|\xff\x0a|\0\0\0\x0c(?:JXL |jP  )\r\n\x87\n",
    re.DOTALL,
)


def kind_of(name: bytes, head: Callable[[], bytes]) -> Kind:
    """The kind of a file; `head` gives its first HEAD bytes, and is called if they are needed.

    A file with the name of an image is one, whatever it holds: a damaged image is to be counted.
    So is a damaged tar.
    """
    low = name.lower().decode("latin-1")
    if low.endswith(IMAGE_SUFFIXES):
        return "image"
    if low.endswith(COMPRESSED):
        return "compressed_tar"
    kind = kind_of_bytes(head())
    return "tar" if kind == "not_an_image" and low.endswith(".tar") else kind


def kind_of_bytes(head: bytes) -> Kind:
    """The kind that the first HEAD bytes of a file state."""
    if head[257:262] == b"ustar":
        return "tar"
    if _UNREAD.match(head):
        return "unread_format"
    return "image" if _IMAGE.match(head) else "not_an_image"


def text_of(path: bytes) -> str:
    """A path as text; bytes that are not UTF-8 are written out (\\xff)."""
    return path.decode("utf-8", "backslashreplace")


def is_hidden(path: bytes) -> bool:
    """Whether a part of a relative path begins with a dot, as .git and ._photo.jpg do."""
    parts = path.split(b"/")
    return any(part.startswith(b".") and part not in (b".", b"..") for part in parts)
