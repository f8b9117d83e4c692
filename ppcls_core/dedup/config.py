"""Settings of the duplicate search: everything that changes which pairs are found."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from data_catalog.base.config import Config

Rule = Literal["strict", "balanced", "recall"]


class DedupConfig(Config):
    """One operating point: no merely similar photograph is removed, most altered copies are found.

    A pair is accepted by the first of four channels that holds:
    1. bytes, 2. pixels: the files, or the decoded pixels, are equal.
    3. phash: hashes within `hash_distance` bits in one of eight poses, and the thumbnails agree
       over `hash_agreement` of the texture of each.
    4. sift: at least `min_inliers` keypoints obey one map; the picture laid over the other shares
       `min_overlap` of its own area or of the other's; and over enough of the texture that one of
       them has there the pixels agree. How much is enough depends on `rule`: `strict` asks for
       0.64, `balanced` for 0.56, `recall` for 0.5 where many matches obey the map, and for more,
       or too much, where few do, where as many obey another or where less is common
       (`verify.needed`). Overlays hide much of a copy and leave its matches exact; pieces of one
       brick wall agree well and match anyhow.

    Two pages of equal print, one laid over the other, are no pair where each has marks that the
    other lacks, as of another person's handwriting (`pixels.other_writing`).
    """

    rule: Rule = "balanced"  # how much of the texture has to agree, see above

    side: int = Field(default=256, ge=64, le=2048)  # longest short side before extraction, pixels
    min_side: int = Field(default=160, ge=32, le=2048)  # smaller pictures are enlarged to this
    num_features: int = Field(default=500, ge=16, le=10_000)  # strongest keypoints kept an image
    min_features: int = Field(default=30, ge=2)  # with fewer a val image is not found by SIFT
    contrast_threshold: float = Field(default=0.006, gt=0, lt=1)  # OpenCV's; 0.04 starves cloth

    coarse_side: int = Field(default=112, ge=32, le=2048)  # short side in the coarse search, pixels
    coarse_features: int = Field(default=200, ge=16, le=10_000)  # keypoints, all searched
    coarse_vote: float = Field(default=1.5, ge=0)  # of a candidate; 0: all are searched in full

    num_queries: int = Field(default=300, ge=16, le=10_000)  # of the features, in the full search
    num_neighbours: int = Field(default=4, ge=2, le=128)  # nearest descriptors that may vote
    min_vote: float = Field(default=1.4, ge=0)  # of features of one turn and zoom, to be verified
    num_candidates: int = Field(default=6, ge=1, le=1000)  # best voted val images that are verified
    max_exact: int = Field(default=8_192, ge=0)  # descriptors up to which all are compared
    num_probes: int = Field(default=3, ge=1)  # cells of the inverted file searched a descriptor

    match_ratio: float = Field(default=0.95, gt=0, le=1)  # Lowe's ratio within one pair of images
    tolerance: float = Field(default=4.0, gt=0)  # pixels of the reduced image
    min_inliers: int = Field(default=5, ge=3)  # keypoints that obey one map, at least
    min_overlap: float = Field(default=0.5, gt=0, le=1)  # area in common, of one of both pictures

    hash_distance: int = Field(default=10, ge=0, le=32)  # bits of 64
    hash_agreement: float = Field(default=0.93, gt=0, le=1)  # of the thumbnails' texture

    canaries: int = Field(default=200, ge=0)  # altered images planted to estimate the recall

    reviewed: Path | None = Field(default=None, exclude=True)
    """Decisions of a person to honour: the reviewed.jsonl of a `ppcls dedup --review`; in a recipe
    relative to it. Pairs are known by their contents, whatever their ids. What the file says is
    part of the stage's key, not where it lies."""

    @model_validator(mode="after")
    def _ordered(self) -> DedupConfig:
        if self.min_side > self.side:
            raise ValueError("`min_side` must be at most `side`")
        return self
