"""The parts of the duplicate search: features and their mirror, hashes, maps, pixel agreement."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.base.config import UserError, parse
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.features import (
    MIRROR,
    NUM_POSES,
    THUMB,
    Features,
    extract,
    mirror,
    negate,
    perceptual_hash,
    pixel_digest,
    pose_affine,
    pose_hashes,
    reduce,
)
from ppcls_core.dedup.match.channels import MAX_OTHER_WRITING
from ppcls_core.dedup.match.pixels import (
    MIN_CORNERS,
    apply,
    compare,
    num_corners,
    other_writing,
    shares,
)
from ppcls_core.dedup.match.verify import (
    AGREEMENT,
    Fit,
    fit,
    match,
    needed,
    similarities,
)

CONFIG = DedupConfig()
SEEDS = st.integers(0, 2**32 - 1)


def features_of(image: np.ndarray) -> Features:
    return extract(image, CONFIG, CONFIG.num_features)


def texture(seed: int, height: int = 160, width: int = 200) -> np.ndarray:
    """Grey uint8 cloud of several scales."""
    rng = np.random.default_rng(seed)
    layers = [cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), s) * s for s in (1, 3, 8)]
    return cv2.normalize(sum(layers), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_the_mirror_permutation_gives_the_descriptors_of_the_mirrored_patches(seed: int) -> None:
    image = texture(seed, 161, 201)
    flipped = np.ascontiguousarray(image[:, ::-1])
    sift = cv2.SIFT.create(60, enable_precise_upscale=True)
    keypoints, plain = sift.detectAndCompute(image, None)
    turned = [
        cv2.KeyPoint(200 - k.pt[0], k.pt[1], k.size, (180 - k.angle) % 360, k.response, k.octave)
        for k in keypoints
    ]
    kept, expected = sift.compute(flipped, turned)
    assert len(kept) == len(keypoints)
    error = np.abs(plain[:, MIRROR] - expected).mean(axis=1)  # bins of 0..255; rounding remains
    assert np.median(error) < 1
    assert np.median(np.abs(plain - expected).mean(axis=1)) > 10  # which no other order explains


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_mirroring_features_twice_gives_them_back(seed: int) -> None:
    features = features_of(texture(seed))
    again = mirror(mirror(features, 200), 200)
    assert len(features) > 50
    assert np.array_equal(again.descriptors, features.descriptors)
    assert np.allclose(again.points, features.points, atol=1e-4)


def test_mirrored_features_match_those_extracted_from_the_mirror_image() -> None:
    image = texture(4)
    features = features_of(image)
    seen = features_of(np.ascontiguousarray(image[:, ::-1]))
    geometry = fit(mirror(features, 200), seen, CONFIG)
    assert geometry is not None
    assert geometry.inliers > 0.5 * len(features)
    assert np.allclose(geometry.homography, np.eye(3), atol=0.3)


@pytest.mark.parametrize("shape", [(16, 16), (64, 90), (128, 128), (600, 400), (20, 4000)])
def test_reduced_pictures_keep_their_bounds(shape: tuple[int, int]) -> None:
    height, width = reduce(np.zeros((*shape, 3), np.uint8), CONFIG).shape
    assert min(height, width) <= CONFIG.side
    assert max(height, width) <= 4 * CONFIG.side
    if max(shape) < 2 * min(shape):
        assert min(height, width) >= CONFIG.min_side
        assert width / height == pytest.approx(shape[1] / shape[0], rel=0.02)


def test_features_are_bounded_and_a_flat_picture_has_none() -> None:
    flat = features_of(np.full((160, 160), 90, np.uint8))
    assert flat.points.shape == (0, 4)
    assert flat.descriptors.shape == (0, 128)
    few = extract(texture(1), CONFIG, 32)
    assert len(few) == 32
    assert few.descriptors.dtype == np.uint8


def posed(thumb: np.ndarray, index: int) -> np.ndarray:
    turned = np.rot90(thumb, index // 2)
    return np.ascontiguousarray(turned[:, ::-1] if index % 2 else turned)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(0, NUM_POSES - 1))
def test_pose_hashes_are_those_of_the_turned_thumbnails(seed: int, index: int) -> None:
    thumb = texture(seed, THUMB, THUMB)
    expected = perceptual_hash(posed(thumb, index))
    wrong = int(pose_hashes(thumb)[index]) ^ expected
    assert wrong.bit_count() <= 2  # coefficients beside the median may round either way


@pytest.mark.parametrize("index", range(NUM_POSES))
def test_pose_affine_says_where_each_pixel_goes(index: int) -> None:
    thumb = np.arange(64, dtype=np.uint8).reshape(8, 8)
    moved = posed(thumb, index)
    row, column = 2, 5
    affine = pose_affine(index)[:2]
    x, y = affine[:, :2] @ [(column + 0.5) / 8, (row + 0.5) / 8] + affine[:, 2]
    assert moved[int(y * 8), int(x * 8)] == thumb[row, column]


def test_the_pixel_digest_tells_shapes_and_values_apart() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    other = image.copy()
    other[3, 4, 1] = 1
    digests = {pixel_digest(x) for x in (image, image.reshape(30, 20, 3), other)}
    assert len(digests) == 3
    assert pixel_digest(image.copy()) in digests


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.floats(-180, 180), st.floats(0.6, 1.6), st.floats(-20, 20), st.floats(0, 25))
def test_fit_finds_the_map_among_wrong_matches(
    seed: int, degrees: float, zoom: float, shift: float, noise: float
) -> None:
    rng = np.random.default_rng(seed)
    turn = cv2.getRotationMatrix2D((100.0, 80.0), degrees, zoom)
    turn[:, 2] += shift
    angle = np.radians(rng.uniform(0, 360, 60))
    points = np.column_stack([rng.uniform(0, 200, (60, 2)), rng.uniform(2, 9, 60), angle])
    moved = points.copy()
    moved[:, :2] = points[:, :2] @ turn[:, :2].T + turn[:, 2]
    moved[:, 2] *= zoom
    moved[:, 3] += np.arctan2(turn[1, 0], turn[0, 0])
    moved[30:, :2] = rng.uniform(0, 200, (30, 2))  # half of the matches are wrong
    descriptors = np.sqrt(rng.dirichlet(np.full(128, 0.3), 60)) * 512  # of unit length
    descriptors = np.minimum(descriptors, 255).astype(np.uint8)
    spoilt = np.clip(descriptors + rng.normal(0, noise / 2, (60, 128)), 0, 255).astype(np.uint8)
    geometry = fit(Features(points, descriptors), Features(moved, spoilt), CONFIG)
    assert geometry is not None
    assert geometry.inliers >= 20
    corners = np.array([[50.0, 50], [150, 110]])
    expected = corners @ turn[:, :2].T + turn[:, 2]
    got = apply(geometry.homography, corners)
    assert np.abs(got - expected).max() < CONFIG.tolerance


def test_unrelated_features_fit_nothing_that_pixels_confirm() -> None:
    pictures = [texture(seed) for seed in range(6)]
    features = [features_of(picture) for picture in pictures]
    for a in range(6):
        for b in range(a):
            geometry = fit(features[a], features[b], CONFIG)
            if geometry is not None:
                seen = compare(pictures[a], pictures[b], geometry.homography)
                assert seen.share < needed(geometry, seen.overlap, CONFIG.rule)


def test_matching_needs_descriptors_on_both_sides() -> None:
    some, none = np.zeros((3, 128), np.uint8), np.zeros((0, 128), np.uint8)
    for row in range(3):
        some[row, 4 * row : 4 * row + 4] = 255  # nearly of unit length
    for pool, val in ((none, some), (some, none), (none, none)):
        assert match(similarities(pool, val), 0.9).shape == (0, 2)
    assert match(similarities(some, some[::-1]), 0.9).tolist() == [[0, 2], [1, 1], [2, 0]]


def test_a_descriptor_near_two_others_is_no_match() -> None:
    one = np.full((1, 128), 45, np.uint8)
    both = np.concatenate([one, one])
    assert len(match(similarities(one, both), 0.9)) == 0


def test_few_disputed_and_random_matches_need_more_agreement() -> None:
    sure = Fit(np.eye(3), inliers=100, obeying=90, within=100, competing=2)
    doubtful = [
        replace(sure, obeying=6, within=7),
        replace(sure, competing=40),
        replace(sure, within=400),
    ]
    for rule in ("strict", "balanced", "recall"):
        least = needed(sure, 1, rule)
        assert AGREEMENT[rule] < least < AGREEMENT[rule] + 0.05
        assert all(needed(fit, 1, rule) > least + 0.15 for fit in doubtful)
        assert needed(sure, 0.7, rule) > least + 0.15
        assert needed(replace(sure, competing=0), 1, rule) == least  # any two matches obey some map
    assert AGREEMENT["strict"] > AGREEMENT["balanced"] > AGREEMENT["recall"]


def test_what_is_laid_over_a_copy_is_no_competitor() -> None:
    image = texture(4)
    lettered = image.copy()
    cv2.putText(lettered, "SAMPLE", (10, 100), 0, 1.8, (255,), 5)
    geometry = fit(features_of(lettered), features_of(image), CONFIG)
    assert geometry is not None
    assert geometry.competing < 0.1 * geometry.obeying


def test_pieces_of_one_wall_match_at_random() -> None:
    rng = np.random.default_rng(0)
    wall = np.full((400, 400), 120.0)
    for row in range(20):
        wall[20 * row : 20 * row + 3] = 200
        for column in range(-(row % 2) * 20, 400, 40):
            wall[20 * row : 20 * row + 20, max(0, column) : column + 3] = 200
    wall = cv2.GaussianBlur(wall, (0, 0), 1) + cv2.GaussianBlur(
        rng.normal(0, 9, wall.shape), (0, 0), 1
    )
    here, there = (part.clip(0, 255).astype(np.uint8) for part in (wall[:200], wall[200:]))
    geometry = fit(features_of(here), features_of(there), CONFIG)
    assert geometry is not None
    assert geometry.competing > 0.3 * geometry.obeying
    seen = compare(here, there, geometry.homography)
    assert seen.share < needed(geometry, seen.overlap, "balanced")


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_the_permutation_for_negatives_gives_their_descriptors(seed: int) -> None:
    image = texture(seed, 161, 201)
    plain, seen = features_of(image), features_of(255 - image)
    geometry = fit(negate(plain), seen, CONFIG)
    assert geometry is not None
    assert geometry.inliers > 0.5 * len(plain)
    assert np.allclose(geometry.homography, np.eye(3), atol=0.05)
    unaware = fit(plain, seen, CONFIG)
    assert unaware is None or unaware.inliers < 0.1 * len(plain)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_fit_finds_a_homography(seed: int) -> None:
    image = texture(seed)
    corners = np.array([[0, 0], [200, 0], [200, 160], [0, 160]], np.float32)
    moved = np.array([[20, 10], [190, 25], [200, 150], [5, 140]], np.float32)
    expected = cv2.getPerspectiveTransform(corners, moved)
    turned = cv2.warpPerspective(image, expected, (200, 160))
    geometry = fit(features_of(image), features_of(turned), CONFIG)
    assert geometry is not None
    assert np.abs(apply(geometry.homography, corners) - moved).max() < 2


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_a_strong_perspective_is_followed_over_the_whole_picture(seed: int) -> None:
    """Where most of the keypoints crowd, the map that they give need not grow to the others."""
    rng = np.random.default_rng(seed)
    corners = np.array([[0, 0], [340, 0], [340, 256], [0, 256]])
    moved = corners + rng.uniform(-0.12, 0.12, (4, 2)) * (340, 256)
    expected = cv2.getPerspectiveTransform(corners.astype(np.float32), moved.astype(np.float32))
    places = rng.uniform((0, 0), (340, 256), (300, 2))
    places[:180] = rng.uniform((10, 10), (90, 80), (180, 2)) + rng.normal(0, 1, (180, 2))
    points = np.column_stack([places, np.full(300, 4.0)])
    seen = apply(expected, points[:, :2])
    beside = apply(expected, points[:, :2] + (1, 0)) - seen  # how a keypoint's frame turns
    down = apply(expected, points[:, :2] + (0, 1)) - seen
    area = np.abs(beside[:, 0] * down[:, 1] - beside[:, 1] * down[:, 0])
    turn = np.arctan2(beside[:, 1] - down[:, 0], beside[:, 0] + down[:, 1])
    descriptors = np.sqrt(rng.dirichlet(np.full(128, 0.3), 300)) * 512
    descriptors = np.minimum(descriptors, 255).astype(np.uint8)
    pool = Features(np.column_stack([points, np.zeros(300)]), descriptors)
    val = Features(np.column_stack([seen, 4 * np.sqrt(area), turn]), descriptors)
    geometry = fit(pool, val, CONFIG)
    assert geometry is not None
    assert geometry.obeying >= 290
    assert np.abs(apply(geometry.homography, corners) - moved).max() < 2


def page(printed: int, hand: int) -> np.ndarray:
    """Grey uint8 form: its print and rules by `printed`, filled in by the hand of `hand`."""
    rng, image = np.random.default_rng(printed), np.full((360, 260), 235, np.uint8)
    for y in range(20, 350, 22):
        words = "".join(rng.choice(list("abcdefghi   "), 12))
        cv2.putText(image, words, (8, y), 0, 0.35, (60,), 1, cv2.LINE_AA)
        cv2.line(image, (110, y + 2), (250, y + 2), (120,), 1)
    rng = np.random.default_rng([printed, hand])
    for y in range(18, 350, 22):
        x = np.arange(115, rng.integers(160, 250), 3)
        stroke = np.column_stack([x + rng.normal(0, 1, len(x)), y - rng.uniform(0, 12, len(x))])
        cv2.polylines(image, [stroke.astype(np.int32)], False, (70,), 1, cv2.LINE_AA)
    return image


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.floats(-3, 3))
def test_other_handwriting_is_told_from_another_shot_of_the_same(seed: int, degrees: float) -> None:
    rng = np.random.default_rng(seed)
    turn = np.eye(3)
    turn[:2] = cv2.getRotationMatrix2D((130, 180), degrees, 0.95)
    light = np.linspace(0.6, 1, 260)

    def shot(image: np.ndarray) -> np.ndarray:
        turned = cv2.warpAffine(image, turn[:2], (260, 360), borderValue=(235,))
        noisy = turned * light + rng.normal(0, 3, turned.shape)
        return noisy.clip(0, 255).astype(np.uint8)

    val = page(seed, 0)
    back = np.linalg.inv(turn)
    assert other_writing(shot(val), val, back) < MAX_OTHER_WRITING
    assert other_writing(shot(page(seed, 1)), val, back) > 4 * MAX_OTHER_WRITING
    noted = val.copy()
    cv2.putText(noted, "SAMPLE", (20, 200), 0, 1.5, (90,), 4, cv2.LINE_AA)
    assert other_writing(shot(noted), val, back) < MAX_OTHER_WRITING  # laid over, nothing gone
    assert other_writing(texture(seed, 360, 260), val, np.eye(3)) == 0  # no page


def test_shares_ignore_brightness_and_see_other_pictures() -> None:
    image = texture(2, THUMB, THUMB)
    assert min(shares(image, (image * 0.5 + 60).astype(np.uint8))) > 0.99
    assert max(shares(image, texture(3, THUMB, THUMB))) < 0.5
    assert max(shares(image, 255 - image)) < 0.1


def test_texture_added_to_a_copy_counts_against_the_copy_alone() -> None:
    image = texture(2, THUMB, THUMB)
    image[:, : THUMB // 2] = 128  # one half is smooth,
    lettered = image.copy()
    lettered[::16, : THUMB // 2] = 255  # and lettered in the copy
    of_image, of_copy = shares(image, lettered)
    assert of_image > 0.95
    assert of_copy < 0.7
    assert compare(lettered, image, np.eye(3)).share > 0.95


def test_without_texture_nothing_agrees() -> None:
    flat = np.full((THUMB, THUMB), 120, np.uint8)
    noisy = flat + np.random.default_rng(0).integers(0, 2, flat.shape, np.uint8)
    ramp = np.tile(np.arange(THUMB, dtype=np.uint8), (THUMB, 1))
    assert shares(flat, flat) == shares(flat, noisy) == (0, 0)
    assert max(num_corners(image) for image in (flat, noisy, ramp)) == 0


def test_one_smooth_contour_has_too_few_corners() -> None:
    arc = cv2.circle(np.zeros((512, 512), np.uint8), (0, 0), 300, 200, -1)
    thumb = cv2.resize(arc, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
    assert num_corners(thumb) < MIN_CORNERS < num_corners(texture(0, THUMB, THUMB))


def zoomed(scale: float, shift: np.ndarray) -> np.ndarray:
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]])


@pytest.mark.parametrize("scale", [0.3, 0.5, 1.0, 1.5])
def test_compare_lays_the_picture_where_the_map_says(scale: float) -> None:
    val = texture(5, THUMB, THUMB)
    shift = np.array([20.0, 12.0])
    size = (round(90 / scale), round(100 / scale))  # a window of val, drawn at 1 / scale
    back = np.array([[1 / scale, 0, -20 / scale], [0, 1 / scale, -12 / scale]])
    back[:, 2] += back[:, :2] @ [0.5, 0.5] - 0.5
    pool = cv2.warpAffine(val, back, size, flags=cv2.INTER_CUBIC)
    seen = compare(pool, val, zoomed(scale, shift))
    assert seen.share > 0.95
    assert seen.overlap == pytest.approx(1, abs=0.02)  # the whole pool picture lies in val
    moved = compare(pool, val, zoomed(scale, shift + 9))
    assert moved.share < 0.7


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ({"side": 10}, "side"),
        ({"match_ratio": 1.5}, "match_ratio"),
        ({"rule": "sure"}, "rule"),
        ({"min_side": 512}, "min_side"),
        ({"num_feature": 3}, "did you mean 'num_features'"),
    ],
)
def test_impossible_settings_are_refused(settings_: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse(DedupConfig, settings_, "dedup")
