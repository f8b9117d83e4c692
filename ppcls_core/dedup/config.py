"""Settings of the duplicate search: everything that changes which pairs are found."""

from __future__ import annotations

from pydantic import Field

from data_catalog.config import Config


class DedupConfig(Config):
    """One operating point: no merely similar photograph is removed, most altered copies are found.

    A pair is accepted by the first of three rules that holds (`detect.py`):
    1. exact: the decoded pixels are equal.
    2. phash: perceptual hashes within `hash_distance` bits, and the thumbnails agree over
       `hash_agreement` of their textured area.
    3. sift: at least `min_inliers` keypoints obey one similarity or affine map; after warping by it the
       pictures agree over `agreement` of the shared textured area, or over `sure_agreement` when there
       are `sure_inliers`; and the shared area is `min_overlap` of either picture.
    """

    side: int = Field(default=256, ge=64, le=2048)  # longest short side before extraction, pixels
    min_side: int = Field(default=160, ge=32, le=2048)  # smaller pictures are enlarged to this
    num_features: int = Field(default=400, ge=16, le=10_000)  # strongest keypoints kept an image
    min_features: int = Field(default=8, ge=2)  # with fewer an image is `weak`: not searched by SIFT
    contrast_threshold: float = Field(default=0.015, gt=0, lt=1)  # OpenCV's; 0.04 starves cloth

    num_neighbours: int = Field(default=6, ge=2, le=128)  # nearest descriptors that may vote
    num_candidates: int = Field(default=6, ge=1, le=1000)  # best voted val images that are verified
    num_probes: int = Field(default=8, ge=1)  # cells of the inverted file searched a descriptor

    match_ratio: float = Field(default=0.85, gt=0, le=1)  # Lowe's ratio within one pair of images
    tolerance: float = Field(default=5.0, gt=0)  # pixels of the reduced image
    min_inliers: int = Field(default=5, ge=3)
    sure_inliers: int = Field(default=15, ge=3)
    agreement: float = Field(default=0.6, gt=0, le=1)
    sure_agreement: float = Field(default=0.4, gt=0, le=1)
    min_overlap: float = Field(default=0.4, gt=0, le=1)

    hash_distance: int = Field(default=10, ge=0, le=32)  # bits of 64
    hash_agreement: float = Field(default=0.8, gt=0, le=1)
