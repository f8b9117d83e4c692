"""The removal list, and how others verify it with images of their own.

removed.json: format, versions of the programs, settings, and for each removed image its id, the
sha256 of its file, and its pairs: the other's id and sha256, channel, score, inliers, transform.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_catalog.config import UserError, parse
from data_catalog.files import read_json, write_json
from ppcls_core.data.decode import BadImage
from ppcls_core.dedup.collection import Collection, collect
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.detect import check_pair
from ppcls_core.dedup.index import build_index, load_index
from ppcls_core.dedup.picture import Source, describe, read_source

FORMAT = 1
PACKAGES = ("ssld", "opencv-python-headless", "faiss-cpu", "numpy")
SCORE_TOLERANCE = 0.02  # other releases of OpenCV round otherwise
FIELDS = ("channel", "score", "inliers", "transform")
VERDICTS = ("agrees", "other_score", "no_pair", "other_file", "missing")


@dataclass(frozen=True)
class Verified:
    """What became of one pair of a list: `verdict` is one of VERDICTS, `detail` says more."""

    image_id: str
    val_id: str
    verdict: str
    detail: str


def write_removal(
    path: Path,
    pairs: Iterable[dict[str, Any]],
    removed: set[str],
    images: tuple[Collection, Collection],
    config: DedupConfig,
) -> None:
    """Write the list of the `removed` images of the first of `images`, with their `pairs` with
    those of the second."""
    by_image: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in pairs:
        if row["pool_id"] in removed:
            by_image[row["pool_id"]].append(row)
    others = sorted({row["val_id"] for rows in by_image.values() for row in rows})
    pool_hashes, val_hashes = _hashes(images[0], sorted(by_image)), _hashes(images[1], others)
    entries = [
        {
            "image_id": image_id,
            "sha256": pool_hashes[image_id],
            "pairs": [
                {"val_id": row["val_id"], "val_sha256": val_hashes[row["val_id"]]}
                | {name: row[name] for name in FIELDS}
                for row in rows
            ],
        }
        for image_id, rows in sorted(by_image.items())
    ]
    head = {"format": FORMAT, "versions": {name: version(name) for name in PACKAGES}}
    write_json(path, head | {"settings": config.model_dump(mode="json"), "removed": entries})


def _hashes(images: Collection, ids: list[str]) -> dict[str, str]:
    """sha256 (hex) of each file; empty when it has gone since it was searched."""
    found = images.find(ids)
    return {image_id: _hash(found[image_id]) for image_id in ids}


def _hash(source: Source) -> str:
    try:
        return hashlib.sha256(read_source(source)).hexdigest()
    except BadImage:
        return ""


def verify_removal(path: Path, pool: Path, against: Path | None) -> list[Verified]:
    """Each pair of the list `path`, searched again among the images at hand.

    `against` None: the pairs are within the pool. Images that are not there are `missing`, those of
    another sha256 `other_file`.

    Raises:
        UserError: no list there, or no images.
    """
    data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f"{path}: no removal list of format {FORMAT}; give a removed.json")
    config = parse(DedupConfig, data["settings"], str(path))
    pool_images = collect(pool)
    val_images = pool_images if against is None else collect(against)
    pairs = [(entry, pair) for entry in data["removed"] for pair in entry["pairs"]]
    pool_found = pool_images.find([entry["image_id"] for entry in data["removed"]])
    val_found = val_images.find([pair["val_id"] for _, pair in pairs])
    with tempfile.TemporaryDirectory() as folder:
        ids = sorted(val_found)
        build_index([val_found[i] for i in ids], ids, config, Path(folder), lambda done: None)
        index = load_index(Path(folder))
        rows = {image_id: row for row, image_id in enumerate(index.ids)}
        result = []
        for entry, pair in pairs:
            source, row = pool_found.get(entry["image_id"]), rows.get(pair["val_id"])
            verdict, detail = "missing", "the image is not there or cannot be read"
            if source is not None and row is not None:
                if (_hash(source), index.bytes_digests[row]) != (
                    entry["sha256"],
                    pair["val_sha256"],
                ):
                    verdict, detail = "other_file", "sha256 differs"
                else:
                    seen = check_pair(describe(source, config), index, row)
                    verdict, detail = _verdict(pair, seen)
            result.append(Verified(entry["image_id"], pair["val_id"], verdict, detail))
    return result


def _verdict(pair: dict[str, Any], seen: Any) -> tuple[str, str]:
    if seen is None:
        return "no_pair", "none of the channels sees one"
    got = f"{seen.channel} {seen.score:.3f}, {seen.inliers} inliers"
    same = seen.channel == pair["channel"] and abs(seen.score - pair["score"]) <= SCORE_TOLERANCE
    return ("agrees" if same else "other_score"), got


def summary(verified: Iterable[Verified]) -> dict[str, int]:
    """Number of pairs by verdict."""
    counts = Counter(pair.verdict for pair in verified)
    return {verdict: counts[verdict] for verdict in VERDICTS}
