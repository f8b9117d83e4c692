"""A picture of predictions: each image as the model saw it, its best classes under it."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from data_catalog.base.config import UserError
from data_catalog.base.files import write_bytes
from data_catalog.base.words import reason_in_words
from ppcls_core.inference.predict import Guess, Row

MAX_TILES = 60
COLUMNS = 6
TILE, GAP, LINE = 200, 14, 17  # pixels: side of an image, space between, height of a line of text
GUESSES = 3
WHITE, INK, GREY, BAR = "#ffffff", "#222222", "#888888", "#d6e4f2"
RIGHT, WRONG = "#1a7f37", "#b3261e"  # of the best class, where the label is known
# It comes with Matplotlib and has Latin, Greek and Cyrillic letters.
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def check_sheet(path: Path) -> None:
    """Raise UserError if no sheet can be written to `path`."""
    if path.suffix.lower() not in (".png", ".jpg") or path.is_dir():
        raise UserError(f"--sheet {path}: expected the name of a file that ends in .png or .jpg")


def write_sheet(path: Path, rows: Sequence[Row]) -> None:
    """Draw `rows`, at most MAX_TILES, to `path` (.png or .jpg), atomically."""
    shown = rows[:MAX_TILES]
    columns = min(COLUMNS, len(shown))
    lines = 1 + max([GUESSES if row.guesses else 2 for row in shown])
    width, height = TILE + GAP, TILE + LINE * lines + GAP
    num_rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (columns * width + GAP, num_rows * height + GAP), WHITE)
    draw, font = ImageDraw.Draw(sheet), ImageFont.truetype(str(FONT), 12)
    for place, row in enumerate(shown):
        at = (GAP + place % columns * width, GAP + place // columns * height)
        _tile(sheet, draw, font, at, row)
    data = io.BytesIO()
    sheet.save(data, "PNG" if path.suffix.lower() == ".png" else "JPEG", quality=92)
    write_bytes(path, data.getvalue())


def _tile(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    at: tuple[int, int],
    row: Row,
) -> None:
    x, y = at
    if row.pixels is not None:
        picture = Image.fromarray(row.pixels.transpose(1, 2, 0))
        sheet.paste(picture.resize((TILE, TILE), Image.Resampling.BICUBIC), at)
    else:
        draw.rectangle((x, y, x + TILE - 1, y + TILE - 1), "#eeeeee")
    draw.text(
        (x, y + TILE + 2),
        _fitted(font, row.picture.name.rpartition("/")[2], TILE, True),
        GREY,
        font,
    )
    top = y + TILE + LINE
    for text in (reason_in_words(row.reason), row.detail) if row.reason else ():
        draw.text((x, top + 2), _fitted(font, text, TILE), WRONG, font)
        top += LINE
    for guess in row.guesses[:GUESSES]:
        share = f"{guess.probability:.2f}"
        draw.rectangle((x, top + 1, x + guess.probability * (TILE - 1), top + LINE - 1), BAR)
        room = TILE - 6 - font.getlength(share)
        color = _color(row, guess)
        draw.text((x + 2, top + 2), _fitted(font, guess.name, room), color, font)
        draw.text((x + TILE - 2 - font.getlength(share), top + 2), share, color, font)
        top += LINE


def _color(row: Row, guess: Guess) -> str:
    """Colour of a class: by whether it is the label; plain but for the best and the label."""
    if row.picture.label is None:
        return INK
    if guess.number == row.picture.label:
        return RIGHT
    return WRONG if guess is row.guesses[0] else INK


def _fitted(font: ImageFont.FreeTypeFont, text: str, room: float, end: bool = False) -> str:
    """`text` cut to `room` pixels: its beginning, or its end."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "\N{HORIZONTAL ELLIPSIS}") > room:
        text = text[1:] if end else text[:-1]
    return f"\N{HORIZONTAL ELLIPSIS}{text}" if end else f"{text}\N{HORIZONTAL ELLIPSIS}"
