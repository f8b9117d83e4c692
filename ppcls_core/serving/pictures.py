"""The images of a request, and their pixels as a network takes them."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import ValidationError, WithJsonSchema
from python_multipart.multipart import parse_options_header

from data_catalog.base.config import Config
from data_catalog.base.words import counted
from ppcls_core.data.decode import BadImage, decode
from ppcls_core.data.transforms import Preprocess
from ppcls_core.serving.limits import Refused, ServeConfig, cut

MULTIPART, JSON = "multipart/form-data", "application/json"
FIELD = "image"  # of a form, as often as there are images
SHAPE = '{"images": [BASE64, ...]}'
MAX_BOUNDARY = 70  # bytes, by RFC 2046
MAX_HEAD = 4096  # bytes of a part's header
# Of `decode`'s formats but PPM, whose comments PIL reads byte by byte.
KINDS = "JPEG, PNG, WebP, BMP, GIF or TIFF"
STARTS = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"BM", b"GIF8", b"II*\0", b"MM\0*")
REMEDIES = {
    "empty": "send the image's bytes",
    "not_an_image": f"send the image as {KINDS}",
    "truncated": "send the whole file",
    "too_small": "send a larger image",
    "decompression_bomb": "send a smaller image; -o max_pixels=N raises the limit",
}


@dataclass(frozen=True)
class Upload:
    """An image as it came."""

    name: str  # of its file, or its number
    data: bytes


class JsonBody(Config):
    """The JSON form of a body."""

    images: list[Annotated[str, WithJsonSchema({"type": "string", "contentEncoding": "base64"})]]


def read_pictures(content_type: str, body: bytes, config: ServeConfig) -> list[Upload]:
    """The images in the body of a request, at least one. Raises Refused (400, 413, 415, 422)."""
    kind, options = parse_options_header(content_type[:1000])
    if kind == MULTIPART.encode():
        pictures = list(_read_multipart(body, options.get(b"boundary", b""), config))
    elif kind == JSON.encode():
        pictures = _read_json(body, config)
    else:
        raise Refused(
            415,
            f"Content-Type {cut(content_type)}",
            f"{MULTIPART} or {JSON}",
            "send files as a form, or their base64 as JSON",
        )
    if not pictures:
        raise Refused(422, "no image", "at least one", "add an image to the request")
    return pictures


def _check_number(num: int, config: ServeConfig) -> None:
    if num > config.max_images:
        raise Refused(
            413,
            f"{counted(num, 'image')} or more in a request",
            f"at most {config.max_images}",
            "send them in several requests; -o max_images=N raises the limit",
        )


# Not Starlette's `request.form()`: it writes images above 1 MB to disk, takes a body that ends
# before its last boundary for whole, and keeps a file without a name as text.
def _read_multipart(body: bytes, boundary: bytes, config: ServeConfig) -> Iterator[Upload]:
    if not 0 < len(boundary) <= MAX_BOUNDARY:
        raise _broken(f"a boundary of {len(boundary)} bytes", f"1 to {MAX_BOUNDARY}")
    # One split more than there may be images, so that too many are noticed and cost nothing.
    delimiter = b"\r\n--" + boundary
    before, *parts = (b"\r\n" + body).split(delimiter, config.max_images + 2)
    if before.strip() or not parts:
        raise _broken("no part", "the boundary that the header names")
    _check_number(len(parts) - 1, config)
    if not parts.pop().startswith(b"--"):
        raise _broken("a body that ends before its last boundary", "all of it")
    for number, part in enumerate(parts):
        yield _read_part(number, part)


def _read_part(number: int, part: bytes) -> Upload:
    end = part.find(b"\r\n\r\n", 0, MAX_HEAD)
    if end < 0:
        raise _broken(f"part {number + 1} without an end of its header", "an empty line")
    headers = {}
    for line in part[:end].split(b"\r\n"):
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    options = parse_options_header(headers.get(b"content-disposition", b""))[1]
    field = options.get(b"name", b"").decode(errors="replace")
    if field != FIELD:
        raise Refused(
            422,
            f"part {number + 1} as field {cut(field)}",
            f"images alone, each as field {FIELD!r}",
            "rename it; options such as top_k go into the query: /predict?top_k=3",
        )
    kind = headers.get(b"content-type", b"").lower()
    if kind and not kind.startswith((b"image/", b"application/octet-stream")):
        raise Refused(
            415,
            f"part {number + 1} of type {cut(kind.decode('latin-1'))}",
            "image/* or application/octet-stream",
            "send images alone",
        )
    file_name = options.get(b"filename", b"").decode(errors="replace")
    return Upload(file_name or str(number), part[end + 4 :])


def _read_json(body: bytes, config: ServeConfig) -> list[Upload]:
    # Base64 has no commas and brackets: a body with many would take memory for nothing.
    _check_number(body.count(b",") + 1, config)
    if body.count(b"[") + body.count(b"{") > 2:
        raise Refused(422, "JSON of another shape", SHAPE, "correct it")
    try:
        images = JsonBody.model_validate_json(body).images
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        status = 400 if first["type"] == "json_invalid" else 422
        raise Refused(status, cut(f"{where}: {first['msg']}"), SHAPE, "correct it") from error
    return [Upload(str(number), _unpacked(number, text)) for number, text in enumerate(images)]


def _unpacked(number: int, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)  # pydantic's would take a cut one for whole
    except ValueError as error:
        raise Refused(
            400, f"images.{number}: no base64 ({error})", "base64 of a file", "encode the file"
        ) from error


def _broken(got: str, expected: str) -> Refused:
    return Refused(400, got, expected, f"send {MULTIPART} as an HTTP client makes it")


def network_input(picture: Upload, preprocess: Preprocess, max_pixels: int) -> np.ndarray:
    """uint8 [3, S, S] of `picture`. Raises Refused (400, 413)."""
    try:
        if not picture.data:
            raise BadImage("empty", "0 bytes")
        if not picture.data.startswith(STARTS):
            raise BadImage("not_an_image", "no known image header")
        return preprocess(decode(picture.data, max_pixels=max_pixels))
    except BadImage as error:
        status = 413 if error.reason == "decompression_bomb" else 400
        raise Refused(
            status,
            f"image {cut(picture.name)}: {error.detail}",
            "a whole image file",
            REMEDIES[error.reason],
            reason=error.reason,
        ) from error
