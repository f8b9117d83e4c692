"""Images to a server, several at a time, and its answers in their order."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

import httpx

from data_catalog.base.config import UserError
from ppcls_core.data.decode import REASONS, BadImage, read_bytes
from ppcls_core.inference.inputs import Picture
from ppcls_core.inference.predict import Guess, Row
from ppcls_core.runtime.threads import map_threads
from ppcls_core.serving.access import is_loopback

MAX_TRIES = 10  # of a request that a busy server puts off
MAX_WAIT = 60.0  # seconds that it may ask for
REFUSED = "refused"  # a reason beside those of BadImage
# What is wrong with the address or the token, whatever the image.
HOPELESS = (401, 403, 404, 405, 421)


class Client:
    """A server as it is reached; may be used from several threads."""

    def __init__(self, url: str, token: str | None, concurrency: int) -> None:
        """For `concurrency` requests at a time. Raises UserError if `url` is none."""
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{url}: no address of a server; expected http://HOST:PORT")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._concurrency = concurrency
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(60, connect=10),
            limits=httpx.Limits(max_connections=concurrency),
            trust_env=not is_loopback(parts.hostname),  # no proxy leads to this machine
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def classify_all(self, pictures: Iterable[Picture], top_k: int) -> Iterator[Row]:
        """A row for each image, in order. Raises UserError, as `classify` does."""
        return map_threads(lambda one: self.classify(one, top_k), pictures, self._concurrency)

    def classify(self, picture: Picture, top_k: int) -> Row:
        """The best classes of an image, or why it has none. Raises UserError: the server cannot be
        reached, or refuses whatever it is sent."""
        try:
            data = read_bytes(picture.source)
        except BadImage as error:
            return Row(picture, (), error.reason, error.detail)
        response = self._post(picture.name.rpartition("/")[2], data, top_k)
        if response.status_code == 200:
            return Row(picture, self._guesses(response))
        reason, message = _refusal(response)
        if response.status_code in HOPELESS:
            raise UserError(f"{self.url}: {message}")
        return Row(picture, (), reason, message)

    def _post(self, name: str, data: bytes, top_k: int) -> httpx.Response:
        # Without a type httpx guesses one by the name.
        files = {"image": (name, data, "application/octet-stream")}
        for left in reversed(range(MAX_TRIES)):
            try:
                response = self._http.post(
                    f"{self.url}/predict", params={"top_k": top_k}, files=files
                )
            except httpx.HTTPError as error:
                raise UserError(
                    f"{self.url}: no answer ({str(error) or type(error).__name__}); see that "
                    "`ppcls serve` runs there"
                ) from error
            if response.status_code != 503 or not left:
                return response
            time.sleep(_wait(response))
        raise AssertionError

    def _guesses(self, response: httpx.Response) -> list[Guess]:
        try:
            found = response.json()["images"][0]["predictions"]
            return [Guess(one["class"], one["name"], one["probability"]) for one in found]
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{self.url}: the answer is not that of `ppcls serve`; check the address"
            ) from error


def _wait(response: httpx.Response) -> float:
    """Seconds."""
    asked = response.headers.get("retry-after", "")
    return min(float(asked), MAX_WAIT) if asked.isdecimal() else 1.0


def _refusal(response: httpx.Response) -> tuple[str, str]:
    """(reason as `predict` gives it if it is the image's fault, else REFUSED; what is said)."""
    try:
        error = response.json()["error"]
        said = f"got {error['got']}, expected {error['expected']}; {error['remedy']}"
    except (ValueError, LookupError, TypeError):
        status = response.status_code
        return REFUSED, f"answered with status {status}; see that `ppcls serve` is there"
    return error["reason"] if error.get("reason") in REASONS else REFUSED, said
