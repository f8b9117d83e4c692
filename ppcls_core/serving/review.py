"""The pairs of a duplicate search on a local page, to be judged by a person.

Every decision is on the disk before it is answered (ppcls_core.dedup.decisions).
"""

import secrets
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import Query, Response
from fastapi.responses import HTMLResponse

from data_catalog.base.config import Config
from ppcls_core.data.decode import BadImage, read_image
from ppcls_core.dedup.decisions import (
    AfterReview,
    Decision,
    Verdict,
    append_decision,
    read_decisions,
)
from ppcls_core.dedup.match.pairs import FOUND
from ppcls_core.dedup.result.gallery import DOUBTED
from ppcls_core.dedup.search import JUDGED, Search
from ppcls_core.report.figures import jpeg, thumbnail
from ppcls_core.serving.access import Access, access_to
from ppcls_core.serving.guard import Guard
from ppcls_core.serving.http import new_api, page_response
from ppcls_core.serving.limits import Metrics, Refused, ServeConfig
from ppcls_core.serving.server import Server, address_of, listen, run

PATHS = ("/", "/pairs", "/picture", "/next", "/decision", "/openapi.json")
SIDES = {"large": 1024, "small": 128}  # longest side of a picture that is sent, pixels
CACHED = {"large": 128, "small": 4096}  # pictures of a size that are kept: some 20 MB each
MAX_ROWS = 200  # of an answer


class PairShown(Config):
    """A pair to be judged, fields as in PAIRS; `verdict`: the person's, if there is one."""

    number: int
    pool_id: str
    val_id: str
    channel: str
    score: float
    inliers: int
    margin: float
    transform: tuple[float, ...]
    verdict: Verdict | None


class Judged(Config):
    """A decision on pair `number`; None takes an earlier one back."""

    number: int
    verdict: Verdict | None


class Standing(Config):
    """How many pairs there are and how many of them are judged, by verdict; `next`: number of the
    next one, in a circle, that is not; `then` and `if_same`: as of AfterReview."""

    total: int
    accepted: int
    refused: int
    next: int | None
    then: str
    if_same: str


class SomePairs(Config):
    """Some of the pairs, in order."""

    pairs: list[PairShown]
    standing: Standing


def pairs_to_judge(folder: Path) -> pa.Table:
    """The pairs of a search's folder (FOUND), those nearest the rule first; of pairs of the same
    contents the first.

    The channels, whose margins are on different scales, take turns, as do the two sides of the
    rule. Files that are equal come last.
    """
    tables = [pq.read_table(folder / f"{n}.parquet", columns=FOUND.names) for n in JUDGED]
    pairs = pa.concat_tables(tables)
    first: dict[frozenset[str], int] = {}
    contents = (pairs[name].to_pylist() for name in ("pool_sha256", "val_sha256"))
    for row, both in enumerate(zip(*contents, strict=True)):
        first.setdefault(frozenset(both), row)
    pairs = pairs.take(pa.array(list(first.values()), pa.int64()))
    channels, margins = np.array(pairs["channel"].to_pylist()), pairs["margin"].to_numpy()
    turns = np.full(len(pairs), np.iinfo(np.int64).max)
    groups = ((channels == name) & side for name in DOUBTED for side in (margins >= 0, margins < 0))
    for place, group in enumerate(groups):
        rows = np.flatnonzero(group)
        nearest = rows[np.argsort(np.abs(margins[rows]), kind="stable")]
        turns[nearest] = 2 * len(DOUBTED) * np.arange(len(rows)) + place
    return pairs.take(pa.array(np.argsort(turns, kind="stable")))


class ReviewService:
    """The pairs of a finished search, the application that shows them, the `file` of decisions."""

    def __init__(self, search: Search, file: Path, access: Access, after: AfterReview) -> None:
        self._after = after
        self.config, self.metrics = ServeConfig(), Metrics()
        self._file, self._table = file, pairs_to_judge(search.out)
        self._images = {
            side: images.take(images.rows_of(self._table[f"{side}_id"].to_pylist()))
            for side, images in {"pool": search.pool, "val": search.val}.items()
        }
        decided = read_decisions(self._file if self._file.exists() else None)
        contents = (self._table[name].to_pylist() for name in ("pool_sha256", "val_sha256"))
        self._verdicts: list[Verdict | None] = [
            decided.of(*both) for both in zip(*contents, strict=True)
        ]
        self._writing = Lock()
        self._drawn: dict[str, Callable[[str, str], Response]] = {
            size: lru_cache(CACHED[size])(self._drawing(side)) for size, side in SIDES.items()
        }
        api = new_api("ppcls dedup --review", PATHS)
        api.get("/", response_class=HTMLResponse, include_in_schema=False)(review_page)
        api.get("/pairs")(self.pairs)
        api.get("/picture", response_class=Response)(self.picture)
        api.get("/next")(self.next)
        api.post("/decision")(self.decide)
        self.guard = Guard(api, self.config, access, self.metrics, PATHS)

    def pairs(
        self,
        start: Annotated[int, Query(ge=0)] = 0,
        num: Annotated[int, Query(ge=1, le=MAX_ROWS)] = MAX_ROWS,
    ) -> SomePairs:
        """`num` pairs from number `start` on."""
        shown = PairShown.model_fields.keys() & {*FOUND.names}
        rows = enumerate(self._table.slice(start, num).to_pylist(), start)
        pairs = [
            PairShown(number=n, verdict=self._verdicts[n], **{name: row[name] for name in shown})
            for n, row in rows
        ]
        return SomePairs(pairs=pairs, standing=self._standing(start - 1))

    def next(self, after: int) -> Standing:
        """The next pair after number `after` that is not judged."""
        return self._standing(after)

    def picture(
        self, number: int, side: Literal["pool", "val"], size: Literal["large", "small"]
    ) -> Response:
        """One of the two pictures of a pair as JPEG; `X-Size` are the original's width and height.
        Refused (422): it cannot be read any more."""
        return self._drawn[size](side, self._row(number)[f"{side}_id"])

    def decide(self, judged: Judged) -> Standing:
        """Keep a decision."""
        row = self._row(judged.number)
        with self._writing:
            append_decision(self._file, Decision.on(row, judged.verdict))
            self._verdicts[judged.number] = judged.verdict
        return self._standing(judged.number)

    def _row(self, number: int) -> dict[str, Any]:
        if 0 <= number < len(self._table):
            return self._table.slice(number, 1).to_pylist()[0]
        raise Refused(404, f"pair {number}", f"0 to {len(self._table) - 1}", "reload the page")

    def _standing(self, after: int) -> Standing:
        num, counts = len(self._table), Counter(self._verdicts)
        order = ((after + 1 + step) % num for step in range(num))
        following = next((n for n in order if self._verdicts[n] is None), None)
        return Standing(
            total=num,
            accepted=counts["accepted"],
            refused=counts["refused"],
            next=following,
            then=self._after.then,
            if_same=self._after.if_same,
        )

    def _drawing(self, longest: int) -> Callable[[str, str], Response]:
        def draw(side: str, image_id: str) -> Response:
            try:
                (source,) = self._images[side].find([image_id]).values()
                image = read_image(source)
            except BadImage as error:
                remedy = "put the file back as it was searched"
                raise Refused(422, str(error), "the picture that was searched", remedy) from error
            size = f"{image.shape[1]} {image.shape[0]}"
            data = jpeg(thumbnail(image, longest), 85)
            return Response(data, media_type="image/jpeg", headers={"X-Size": size})

        return draw


def review_page() -> HTMLResponse:
    """The page on which pairs are judged."""
    return page_response("review.html")


def serve_review(
    search: Search, file: Path, after: AfterReview, say: Callable[[str], None]
) -> None:
    """Show the pairs of the finished `search` on a free port of this machine alone, until SIGTERM
    or SIGINT, and add what is decided to `file`; `say` takes the address, which holds a token made
    for this time."""
    token = secrets.token_urlsafe()
    service = ReviewService(search, file, access_to("127.0.0.1", token), after)
    with listen("127.0.0.1", 0) as bound:
        url = f"{address_of(bound)}/#{token}"
        run(Server(service), bound, lambda: say(f"judge the pairs at {url} ; Ctrl-C ends it"))
