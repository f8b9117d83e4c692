"""The removal list, and how others verify it with images of their own.

removed.json: format, versions of the programs, settings; of each side the number of images, the
digest of their contents, and how many of them could not be searched, by reason; what a person
decided; for each removed image its id, the sha256 of its file, and its pairs: the other's id and
sha256, channel, score, inliers, transform, and whether a person accepted it; last the number of
images and the digest of all that. The digest shows changes
made by accident or without care: it is no signature. That no image is missing from a list only a
search of one's own can show.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from data_catalog.base.config import Config, UserError, parse
from data_catalog.base.files import atomic_path, digest_of, read_json
from data_catalog.images.collect import collect
from data_catalog.images.columns import Source
from ppcls_core.data.decode import BadImage, read_bytes
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.decisions import Decision
from ppcls_core.dedup.features import describe
from ppcls_core.dedup.match.detect import check_pair
from ppcls_core.dedup.match.index import ValIndex, build_index, load_index
from ppcls_core.dedup.match.pixels import apply
from ppcls_core.runtime.monitor import SilentMonitor
from ppcls_core.runtime.threads import map_threads
from ppcls_core.runtime.versions import installed_versions

FORMAT = 4
HEAD = ("format", "versions", "settings", "pool", "against", "reviewed")  # ahead of the entries
MODULES = ("cv2", "faiss", "numpy")  # whose versions the list names
SCORE_TOLERANCE = 0.02  # other releases of OpenCV round otherwise
MAP_TOLERANCE = 0.05  # of the other picture's diagonal
NUM_STEPS = 8  # points a side at which two maps are compared
ALTERED = "altered since it was written: its number of images or its digest is another"
TRUE = ("agrees", "reviewed")  # `reviewed`: a person judged it, whether a search finds it or not
VERDICTS = (*TRUE, "other_score", "other_map", "no_pair", "other_file", "missing")


class Evidence(Config):
    """A pair of a removed image."""

    val_id: str
    val_sha256: str
    channel: Literal["bytes", "pixels", "phash", "sift"]
    score: float = Field(ge=0, le=1)
    inliers: int = Field(ge=0)
    transform: tuple[float, ...] = Field(min_length=9, max_length=9)
    reviewed: bool  # whether a person has accepted it


class Removed(Config):
    """A removed image."""

    image_id: str
    sha256: str
    pairs: tuple[Evidence, ...] = Field(min_length=1)


class Searched(Config):
    """One side of a search: `images` = `used` + `duplicates` + the sum of `rejected`, by reason.

    `used`: pool images that were kept, validation images that were searched for; of these
    `too_few_features` have too few for SIFT to be relied on. `rejected` counts damaged tars too,
    whose images nobody knows. `passed_over`: files met that are no images, by reason; they are in
    no other number. `digest`: of the contents (sha256, hex).
    """

    digest: str
    images: int
    used: int
    duplicates: int = 0
    rejected: dict[str, int]
    too_few_features: int
    passed_over: dict[str, int]

    @model_validator(mode="after")
    def _adds_up(self) -> Searched:
        if self.images != self.used + self.duplicates + sum(self.rejected.values()):
            raise ValueError("`images` is not the sum of `used`, `duplicates` and `rejected`")
        return self


class Reviewed(Config):
    """The outcome of a person's decisions on images that are searched: pairs `accepted`, those
    `refused` and therefore in no removed image's pairs, and the number on pairs not found."""

    accepted: int = 0
    refused: tuple[Decision, ...] = ()
    absent: int = 0


class RemovalList(Config):
    """Content of a removed.json; `against` None: the pool was searched within."""

    format: Literal[4]
    versions: dict[str, str]
    settings: DedupConfig
    pool: Searched
    against: Searched | None
    reviewed: Reviewed
    removed: tuple[Removed, ...]
    num_removed: int
    digest: str


@dataclass(frozen=True)
class Verified:
    """The outcome for one pair of a list: `verdict` is one of VERDICTS, `detail` says more."""

    image_id: str
    val_id: str
    verdict: str
    detail: str


def write_removal(
    path: Path,
    sides: tuple[Searched, Searched | None],
    config: DedupConfig,
    reviewed: Reviewed,
    removed: Iterable[Removed],
) -> None:
    """Write the list `path`, entry by entry; `sides`: the pool, what it was searched against."""
    parts = (side and side.model_dump(mode="json") for side in (config, *sides, reviewed))
    values = (FORMAT, installed_versions(MODULES), *parts)
    head = dict(zip(HEAD, values, strict=True))
    digest, num = hashlib.sha256(digest_of(head).encode()), 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(head, indent=1, ensure_ascii=False)[:-2] + ',\n "removed": [')
        for num, entry in enumerate(removed, 1):
            data = entry.model_dump(mode="json")
            file.write((",\n" if num > 1 else "\n") + json.dumps(data, ensure_ascii=False))
            digest.update(digest_of(data).encode())
        file.write(f'\n ],\n "num_removed": {num},\n "digest": "{digest.hexdigest()}"\n}}\n')


def read_removal(path: Path) -> tuple[RemovalList, list[str]]:
    """The list `path`, and notes on it: other versions, an alteration. Raises UserError: no list of
    this format there."""
    data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f"{path}: no removal list of format {FORMAT}; give a removed.json")
    try:
        listed, notes = parse(RemovalList, data, str(path)), list[str]()
    except UserError as error:
        raise UserError(f"{error}\nask for the list as it was written") from None
    digest = hashlib.sha256(digest_of({name: data.get(name) for name in HEAD}).encode())
    for entry in data["removed"]:
        digest.update(digest_of(entry).encode())
    if (listed.num_removed, listed.digest) != (len(listed.removed), digest.hexdigest()):
        notes.append(ALTERED)
    here = installed_versions(MODULES)
    for name in sorted(listed.versions.keys() | here):
        if listed.versions.get(name) != here.get(name):
            notes.append(f"made with {name} {listed.versions.get(name)}, here {here.get(name)}")
    return listed, notes


def verify_removal(
    path: Path, pool: Path, against: Path | None
) -> tuple[list[Verified], list[str]]:
    """Each pair of the list `path`, searched again among the images at hand, and what is odd.

    `against` None: the pairs are within the pool. Images that are not there are `missing`, those of
    another sha256 `other_file`.

    Raises UserError: no list there, one of the other kind of search, or no images.
    """
    listed, notes = read_removal(path)
    if (listed.against is None) != (against is None):
        kind = "--within" if listed.against is None else "--against"
        raise UserError(f"{path}: is of a search {kind}; verify it so")
    images = collect(pool)
    others = images if against is None else collect(against)
    entries, workers = listed.removed, os.cpu_count() or 1
    found = images.find(entry.image_id for entry in entries)
    wanted = {pair.val_id for entry in entries for pair in entry.pairs}
    if against is None:
        wanted |= found.keys()
    indexed = others.take(others.rows_of(wanted))
    with tempfile.TemporaryDirectory() as folder:
        build_index(indexed, listed.settings, Path(folder), workers, SilentMonitor())
        index = load_index(Path(folder))
        rows = {image_id: row for row, image_id in enumerate(index.ids)}
        described = dict(zip(indexed.ids, indexed.sources(), strict=True)) | found
        check = _Check(found, described, index, rows, against is None)
        return [v for part in map_threads(check.entry, entries, workers) for v in part], notes


@dataclass(frozen=True)
class _Check:
    """Checks entries of a list: `found` says where the removed images are, `images` where those to
    be described are, `rows` at which row of the `index` each image is."""

    found: dict[str, Source]
    images: dict[str, Source]
    index: ValIndex
    rows: dict[str, int]
    within: bool

    def entry(self, entry: Removed) -> list[Verified]:
        """Each pair of an entry."""
        try:
            sha256 = hashlib.sha256(read_bytes(self.found[entry.image_id])).hexdigest()
        except (BadImage, KeyError):  # not there, or removed since
            sha256 = ""
        return [
            Verified(entry.image_id, pair.val_id, *self._pair(entry, pair, sha256))
            for pair in entry.pairs
        ]

    def _pair(self, entry: Removed, pair: Evidence, sha256: str) -> tuple[str, str]:
        row = self.rows.get(pair.val_id)
        if not sha256 or row is None:
            return "missing", "the image is not there or cannot be read"
        if (sha256, self.index.bytes_digests[row]) != (entry.sha256, pair.val_sha256):
            return "other_file", "sha256 differs"
        verdict = self._searched(pair, entry.image_id, pair.val_id)
        if verdict[0] != "agrees" and self.within and entry.image_id in self.rows:
            # The pair may have been found from the other image.
            turned = self._searched(pair, pair.val_id, entry.image_id)
            verdict = turned if turned[0] == "agrees" else verdict
        if pair.reviewed and verdict[0] in ("agrees", "no_pair"):
            return "reviewed", verdict[1]
        return verdict

    def _searched(self, pair: Evidence, query: str, indexed: str) -> tuple[str, str]:
        """Verdict and detail on `pair` when the image `query` is compared with `indexed`."""
        try:
            picture = describe(self.images[query], self.index.config)
        except BadImage as error:
            return "missing", str(error)
        now = check_pair(picture, self.index, self.rows[indexed])
        if now is None:
            return "no_pair", "no channel finds one"
        detail = f"{now.channel} {now.score:.3f}, {now.inliers} inliers"
        if now.channel != pair.channel or abs(now.score - pair.score) > SCORE_TOLERANCE:
            return "other_score", detail
        size = self.index.sizes[self.rows[indexed], :2]
        listed = np.reshape(pair.transform, (3, 3))
        if indexed != pair.val_id:
            listed = np.linalg.pinv(listed)
        same = _deviation(listed, now.homography, picture.size, size) <= MAP_TOLERANCE
        return ("agrees" if same else "other_map"), detail


def _deviation(
    a: np.ndarray, b: np.ndarray, size: tuple[int, int], other_size: np.ndarray
) -> float:
    """How far apart two maps take the points of a picture that `b` lays within the other one, of
    its diagonal; the sizes are (width, height)."""
    steps = np.linspace(0, 1, NUM_STEPS)
    points = np.stack(np.meshgrid(*(steps * side for side in size)), axis=-1).reshape(-1, 2)
    mapped = apply(b, points)
    inside = ((mapped >= 0) & (mapped <= other_size)).all(axis=1)
    off = np.linalg.norm(apply(a, points) - mapped, axis=1)[inside]
    return float(np.max(off, initial=0)) / float(np.hypot(*other_size))


def summary(verified: Iterable[Verified]) -> dict[str, int]:
    """Number of pairs by verdict."""
    counts = Counter(pair.verdict for pair in verified)
    return {verdict: counts[verdict] for verdict in VERDICTS}
