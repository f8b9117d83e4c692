"""Pixels of the embedded data set: square pieces of a photograph, and what becomes of them.

All images are BGR uint8 [H, W, 3], OpenCV's order. Random numbers come from the caller's generator.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np

QUALITY = 92  # of the JPEG files
BAD = ("truncated", "text", "empty", "tiny", "bomb")


def blocks(photo: np.ndarray, *regions: int) -> list[np.ndarray]:
    """The blocks of `photo` ([H, W, 3]) that belong to `regions`, as views, row by row."""
    rows, columns = (np.linspace(0, side, 4).astype(int) for side in photo.shape[:2])
    return [
        photo[rows[r] : rows[r + 1], columns[c] : columns[c + 1]]
        for r in range(3)
        for c in range(3)
        if (r + c) % 3 in regions
    ]


def cut(block: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A square of `block`, turned by up to 30 degrees, 40 to 100 % as wide as fits.

    Args:
        block: uint8 [H, W, 3]; every pixel that is read lies in it.
        size: side of the result, in pixels.

    Returns:
        uint8 [size, size, 3].
    """
    import cv2

    angle = np.deg2rad(rng.uniform(-30, 30))
    cos, sin = np.cos(angle), np.sin(angle)
    height, width = block.shape[:2]
    side = rng.uniform(0.4, 1.0) * (min(height, width) - 2) / (cos + abs(sin))
    half = side * (cos + abs(sin)) / 2
    x, y = rng.uniform(half, width - 1 - half), rng.uniform(half, height - 1 - half)
    fine = size * max(1, round(side / size))  # shrinking averages whole pixels, or it would alias
    turn = np.array([[cos, -sin], [sin, cos]]) * side / fine
    centre = np.array([[x], [y]]) - turn @ np.full((2, 1), (fine - 1) / 2)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    piece = cv2.warpAffine(block, np.hstack([turn, centre]), (fine, fine), flags=flags)
    return cv2.resize(piece, (size, size), interpolation=cv2.INTER_AREA)


def detail(image: np.ndarray) -> float:
    """How much there is to see: the mean absolute Laplacian after a blur against the grain."""
    import cv2

    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (0, 0), 1.5)
    return float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean())


def relight(piece: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`piece` with blur, lost colour, contrast, brightness, a colour cast and noise, at random."""
    import cv2

    if rng.random() < 0.5:
        piece = cv2.GaussianBlur(piece, (0, 0), rng.uniform(0.3, 1.2) * len(piece) / 128)
    if rng.random() < 0.25:
        piece = cv2.cvtColor(cv2.cvtColor(piece, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    mean = piece.mean()
    gain = rng.uniform(0.6, 1.4) * rng.uniform(0.85, 1.15, 3)
    light = (piece - mean) * gain + mean * rng.uniform(0.85, 1.15, 3) + rng.uniform(-35, 35)
    light += rng.normal(0, rng.uniform(0, 7), piece.shape)
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def encode(image: np.ndarray, quality: int = QUALITY) -> bytes:
    """JPEG bytes of an image."""
    import cv2

    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = len(image)
    side = round(size * rng.uniform(0.75, 0.9))
    y, x = rng.integers(0, size - side + 1, 2)
    return image[y : y + side, x : x + side]


def _half(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    import cv2

    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def _turn(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotated by 5 to 15 degrees and cut to the square that has no empty corner."""
    import cv2

    size = len(image)
    angle = rng.uniform(5, 15) * rng.choice([-1, 1])
    side = size / (np.cos(np.deg2rad(angle)) + abs(np.sin(np.deg2rad(angle))))
    matrix = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), angle, 1)
    edge = int(np.ceil((size - side) / 2))
    return cv2.warpAffine(image, matrix, (size, size))[edge : size - edge, edge : size - edge]


def _text(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    import cv2

    size, image = len(image), image.copy()
    colour = tuple(int(v) for v in rng.integers(0, 256, 3))
    for line in rng.uniform(0.2, 0.9, 2):
        place = (int(0.05 * size), int(line * size))
        cv2.putText(image, "SAMPLE", place, cv2.FONT_HERSHEY_SIMPLEX, size / 170, colour, 2)
    return image


def _colour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    gains = rng.uniform(0.7, 1.3, 3)
    light = 255 * (image / 255) ** rng.uniform(0.7, 1.4) * gains
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def _blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    import cv2

    return cv2.GaussianBlur(image, (0, 0), rng.uniform(1.0, 1.8) * len(image) / 128)


TRANSFORMS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "jpeg30": lambda image, rng: image,
    "crop": _crop,
    "half": _half,
    "mirror": lambda image, rng: np.ascontiguousarray(image[:, ::-1]),
    "rotation": _turn,
    "text": _text,
    "colour": _colour,
    "blur": _blur,
}


def bad_file(kind: str, image: np.ndarray) -> bytes:
    """Content of a `.jpg` file that is no usable image; `kind` is one of BAD."""
    if kind == "truncated":
        data = encode(image)
        return data[: len(data) * 2 // 5]
    if kind == "text":
        return b"This is a text and no photograph.\n" * 8
    if kind == "tiny":
        return encode(image[:8, :8])
    return _bomb() if kind == "bomb" else b""


def _bomb() -> bytes:
    """A PNG of 69 bytes whose header promises 50,000 x 50,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(name, data)
        for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )
