"""The alterations that people make to pictures before they publish them again, to plant copies.

An attack takes a picture, another picture that it may need as ground or sticker, and a generator;
it gives the altered picture. All are RGB uint8 [H, W, 3].
"""

from collections.abc import Callable

import cv2
import numpy as np

Attack = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]

WHITE = (255, 255, 255)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """The picture as JPEG leaves it."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


def scale(image: np.ndarray, factor: float) -> np.ndarray:
    """The picture at `factor` of its side."""
    size = [max(16, round(side * factor)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def crop(image: np.ndarray, area: float, rng: np.random.Generator) -> np.ndarray:
    """A random window of the picture's shape with `area` of its area."""
    height, width = (round(side * area**0.5) for side in image.shape[:2])
    top = int(rng.integers(0, image.shape[0] - height + 1))
    left = int(rng.integers(0, image.shape[1] - width + 1))
    return image[top : top + height, left : left + width]


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """The picture turned about its centre, black where nothing is known."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(image, turn, (width, height))


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur; `sigma` in pixels."""
    return cv2.GaussianBlur(image, (0, 0), sigma)


def colour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another hue, saturation, contrast and brightness."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(-35, 35)) % 180  # OpenCV's steps of two degrees
    hsv[..., 1] *= rng.uniform(0.5, 1.6)
    hsv[..., 2] = hsv[..., 2] * rng.uniform(0.6, 1.3) + rng.uniform(-20, 20)
    hsv[..., 1:] = hsv[..., 1:].clip(0, 255)
    return cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)


def gamma(image: np.ndarray, exponent: float) -> np.ndarray:
    """Tones bent: darker above 1, lighter below."""
    table = 255 * (np.arange(256) / 255) ** exponent
    return table.round().astype(np.uint8)[image]


def noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Grain; `sigma` in grey levels."""
    return (image + rng.normal(0, sigma, image.shape)).clip(0, 255).astype(np.uint8)


def grey(image: np.ndarray) -> np.ndarray:
    """Without colours."""
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def text(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Three thick lines of lettering across the picture."""
    image, (height, width) = image.copy(), image.shape[:2]
    ink = WHITE if rng.random() < 0.5 else tuple(int(x) for x in rng.integers(0, 256, 3))
    for line in (0.25, 0.5, 0.75):
        letters = "".join(rng.choice(list("ABCDEFGHKLMNOPRSTUVWXYZ "), 12))
        place = (width // 20, int(height * line))
        cv2.putText(image, letters, place, 0, width / 260, ink, max(2, width // 60), cv2.LINE_AA)
    return image


def watermark(image: np.ndarray) -> np.ndarray:
    """Half-transparent lettering all over the picture."""
    height, width = image.shape[:2]
    layer = np.zeros_like(image)
    for row, y in enumerate(range(height // 10, height + 1, max(8, height // 6))):
        place = (-(row % 2) * width // 6, y)
        line = "(c) PHOTOS " * 5
        cv2.putText(layer, line, place, 0, width / 400, WHITE, max(1, width // 200), cv2.LINE_AA)
    return cv2.addWeighted(image, 1, layer, 0.45, 0)


def border(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A plain frame of a tenth to a quarter of the short side."""
    wide = round(min(image.shape[:2]) * rng.uniform(0.1, 0.25))
    paint = tuple(int(x) for x in rng.integers(0, 256, 3))
    return cv2.copyMakeBorder(image, wide, wide, wide, wide, cv2.BORDER_CONSTANT, value=paint)


def paste(
    image: np.ndarray, ground: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """The picture, of its own shape, over `share` of the area of a ground."""
    height, width = ground.shape[:2]
    side = (share * height * width / (image.shape[0] * image.shape[1])) ** 0.5
    side = min(side, height / image.shape[0], width / image.shape[1])
    inset = scale(image, side)[:height, :width]
    top = int(rng.integers(0, height - inset.shape[0] + 1))
    left = int(rng.integers(0, width - inset.shape[1] + 1))
    ground = ground.copy()
    ground[top : top + inset.shape[0], left : left + inset.shape[1]] = inset
    return ground


def screenshot(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture on a page: a bar with buttons above, lines of text beside and below."""
    height, width = image.shape[:2]
    page = np.full((round(height * 1.45), round(width * 1.35), 3), 245, np.uint8)
    bar = max(6, page.shape[0] // 14)
    page[:bar] = rng.integers(20, 120, 3)
    for button in range(3):
        cv2.circle(page, (bar * (button + 1), bar // 2), max(2, bar // 4), (240, 90, 80), -1)
    size, step = page.shape[1] / 900, max(8, page.shape[0] // 30)
    for y in range(2 * bar, page.shape[0], step):
        words = " ".join("".join(rng.choice(list("abcdefghilmnoprstu"), 6)) for _ in range(14))
        cv2.putText(page, words, (8, y), 0, size, (40, 40, 40), 1, cv2.LINE_AA)
    left = int(rng.integers(0, page.shape[1] - width + 1))
    top = int(rng.integers(bar, page.shape[0] - height + 1))
    page[top : top + height, left : left + width] = image
    return page


def perspective(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """As photographed from the side: each corner moves inwards by up to `strength` of a side."""
    height, width = image.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * (width, height)
    moved = corners + inwards * rng.uniform(0, strength, (4, 2))
    homography = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    return cv2.warpPerspective(image, homography, (width, height))


# Common ones, then harder ones.
COMMON: dict[str, Attack] = {
    "jpeg 30": lambda image, _, rng: jpeg(image, 30),
    "jpeg 10": lambda image, _, rng: jpeg(image, 10),
    "half size": lambda image, _, rng: scale(image, 0.5),
    "quarter size": lambda image, _, rng: scale(image, 0.25),
    "crop 80 %": lambda image, _, rng: crop(image, 0.8, rng),
    "crop 50 %": lambda image, _, rng: crop(image, 0.5, rng),
    "crop 30 %": lambda image, _, rng: crop(image, 0.3, rng),
    "crop 20 %": lambda image, _, rng: crop(image, 0.2, rng),
    "rotate 15": lambda image, _, rng: rotate(image, 15),
    "rotate 90": lambda image, _, rng: np.rot90(image),
    "mirror": lambda image, _, rng: image[:, ::-1],
    "blur 2": lambda image, _, rng: blur(image, 2),
    "blur 4": lambda image, _, rng: blur(image, 4),
    "colour": lambda image, _, rng: colour(image, rng),
    "text": lambda image, _, rng: text(image, rng),
    "border": lambda image, _, rng: border(image, rng),
    "screenshot": lambda image, _, rng: screenshot(image, rng),
    "crop 50 % + 0.6 + jpeg 50": lambda image, _, rng: jpeg(scale(crop(image, 0.5, rng), 0.6), 50),
    "mirror + crop 60 % + jpeg 40": lambda image, _, rng: jpeg(crop(image, 0.6, rng)[:, ::-1], 40),
}
HARDER: dict[str, Attack] = {
    "picture in picture 50 %": lambda image, other, rng: paste(image, other, 0.5, rng),
    "picture in picture 20 %": lambda image, other, rng: paste(image, other, 0.2, rng),
    "perspective": lambda image, _, rng: perspective(image, 0.2, rng),
    "sticker 40 %": lambda image, other, rng: paste(other, image, 0.4, rng),
    "squeeze": lambda image, _, rng: cv2.resize(
        image, [min(image.shape[:2])] * 2, interpolation=cv2.INTER_AREA
    ),
    "invert": lambda image, _, rng: 255 - image,
    "grey": lambda image, _, rng: grey(image),
    "gamma": lambda image, _, rng: gamma(image, float(rng.choice([0.45, 2.2]))),
    "noise": lambda image, _, rng: noise(image, 20, rng),
    "watermark": lambda image, _, rng: watermark(image),
    "rotate 40 + crop 50 %": lambda image, _, rng: crop(rotate(image, 40), 0.5, rng),
    "mirror + rotate 8 + crop 40 %": lambda image, _, rng: crop(
        rotate(image[:, ::-1], 8), 0.4, rng
    ),
    "grey + text + jpeg 30": lambda image, _, rng: jpeg(grey(text(image, rng)), 30),
    "border + half + blur 1": lambda image, _, rng: blur(scale(border(image, rng), 0.5), 1),
    "screenshot + 0.5 + jpeg 40": lambda image, _, rng: jpeg(
        scale(screenshot(image, rng), 0.5), 40
    ),
    "crop 40 % + colour + noise": lambda image, _, rng: noise(
        colour(crop(image, 0.4, rng), rng), 8, rng
    ),
}
ATTACKS: dict[str, Attack] = COMMON | HARDER
