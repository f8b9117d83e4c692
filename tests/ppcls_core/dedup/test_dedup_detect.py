"""The duplicate search as a stage uses it: index on disk, scan of image files."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.base.config import UserError
from ppcls_core.data.decode import decode
from ppcls_core.dedup.attacks import watermark
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.features import describe
from ppcls_core.dedup.match import channels
from ppcls_core.dedup.match.detect import ScanResult, check_pair, judge, scan
from ppcls_core.dedup.match.index import FORMAT, ValIndex, build_index, load_index
from ppcls_core.dedup.match.pairs import FOUND
from ppcls_core.dedup.match.pixels import apply
from ppcls_core.runtime.monitor import SilentMonitor
from tests.support.images import images_at

NUM_VAL = 8
CLOTHING = (
    Path(os.environ.get("SSLD_SHARED", Path(__file__).parents[4] / "shared")) / "data" / "clothing"
)


def picture(seed: int, height: int = 240, width: int = 320) -> np.ndarray:
    """BGR uint8 scene: a cloudy ground with discs, bars and grain."""
    rng = np.random.default_rng(seed)
    ground = cv2.resize(rng.uniform(40, 215, (6, 8, 3)), (width, height), interpolation=3)
    for _ in range(40):
        colour = rng.uniform(0, 255, 3).tolist()
        centre = rng.integers(0, (width, height)).tolist()
        axes = rng.integers(4, 30, 2).tolist()
        cv2.ellipse(ground, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
    grain = cv2.GaussianBlur(rng.normal(0, 18, ground.shape), (0, 0), 1.2)
    return np.clip(ground + grain, 0, 255).astype(np.uint8)


def save(path: Path, image: np.ndarray) -> Path:
    cv2.imwrite(str(path), image)
    return path


def make_index(
    folder: Path, images: list[np.ndarray], config: DedupConfig | None = None
) -> ValIndex:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [save(folder / f"v{i}.png", image) for i, image in enumerate(images)]
    config = config or DedupConfig()
    build_index(images_at({p.stem: p for p in paths}), config, folder / "i", 2, SilentMonitor())
    return load_index(folder / "i")


def search(paths: list[Path], index: ValIndex, workers: int = 2) -> ScanResult:
    return scan(paths, [path.stem for path in paths], index, workers, lambda: None)


def search_images(folder: Path, images: list[np.ndarray], index: ValIndex) -> ScanResult:
    folder.mkdir(parents=True, exist_ok=True)
    return search([save(folder / f"p{i}.png", image) for i, image in enumerate(images)], index)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ValIndex:
    return make_index(tmp_path_factory.mktemp("val"), [picture(i) for i in range(NUM_VAL)])


def lettered(image: np.ndarray) -> np.ndarray:
    image = image.copy()
    for y in (70, 180):
        cv2.putText(image, "SAMPLE", (20, y), 0, 1.8, (255, 255, 255), 4)
    return image


def turned(image: np.ndarray) -> np.ndarray:
    return cv2.warpAffine(image, cv2.getRotationMatrix2D((160, 120), 15, 1), (320, 240))


def shrunk(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


ATTACKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "half": lambda image: shrunk(image, 0.5),
    "quarter": lambda image: shrunk(image, 0.25),
    "crop 50 %": lambda image: image[40:210, 60:286],
    "crop 20 %": lambda image: image[60:168, 100:243],
    "rotate 15": turned,
    "rotate 90": lambda image: np.rot90(image),
    "mirror": lambda image: image[:, ::-1],
    "mirrored crop": lambda image: image[40:210, 60:286][:, ::-1],
    "blur": lambda image: cv2.GaussianBlur(image, (0, 0), 2),
    "colour": lambda image: (image[..., ::-1] * 0.6 + 30).astype(np.uint8),
    "text": lettered,
    "border": lambda image: cv2.copyMakeBorder(image, *[30] * 4, 0, value=(30, 200, 90)),
    "squeeze": lambda image: cv2.resize(image, (240, 240), interpolation=cv2.INTER_AREA),
    "chain": lambda image: shrunk(image[30:200, 40:266], 0.6),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_altered_copies_are_found_and_nothing_else(
    name: str, index: ValIndex, tmp_path: Path
) -> None:
    images = [np.ascontiguousarray(ATTACKS[name](picture(i))) for i in range(4)]
    pairs = search_images(tmp_path, images, index).pairs
    assert pairs["pool_id"].to_pylist() == [f"p{i}" for i in range(4)]
    assert pairs["val_id"].to_pylist() == [f"v{i}" for i in range(4)]


def test_strong_compression_is_seen_through(index: ValIndex, tmp_path: Path) -> None:
    path = tmp_path / "v1.jpg"
    cv2.imwrite(str(path), picture(1), [cv2.IMWRITE_JPEG_QUALITY, 10])
    assert search([path], index).pairs["val_id"].to_pylist() == ["v1"]


def test_lossless_copies_are_exact_whatever_their_bytes(index: ValIndex, tmp_path: Path) -> None:
    path = tmp_path / "copy.bmp"
    save(path, picture(2))
    (pair,) = search([path], index).pairs.to_pylist()
    assert (pair["val_id"], pair["channel"], pair["score"], pair["inliers"]) == (
        "v2",
        "pixels",
        1,
        0,
    )
    assert pair["transform"] == [1, 0, 0, 0, 1, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("crop 50 %", [1, 0, 60, 0, 1, 40]),
        ("mirrored crop", [-1, 0, 286, 0, 1, 40]),
        ("half", [2, 0, 0, 0, 2, 0]),
        ("rotate 90", [0, -1, 320, 1, 0, 0]),
        ("border", [1, 0, -30, 0, 1, -30]),
    ],
)
def test_the_transform_maps_pool_pixels_to_val_pixels(
    name: str, expected: list[int], index: ValIndex, tmp_path: Path
) -> None:
    image = np.ascontiguousarray(ATTACKS[name](picture(3)))
    (pair,) = search_images(tmp_path, [image], index).pairs.to_pylist()
    corners = np.array([[0, 0], [image.shape[1], 0], [0, image.shape[0]]])
    got = apply(np.reshape(pair["transform"], (3, 3)), corners)
    wanted = apply(np.reshape([*expected, 0, 0, 1], (3, 3)), corners)
    assert np.abs(got - wanted).max() < 1.5


def test_unrelated_pictures_give_no_pair(index: ValIndex, tmp_path: Path) -> None:
    result = search_images(tmp_path, [picture(100 + i) for i in range(12)], index)
    assert result.pairs.num_rows == 0
    assert result.pairs.schema == FOUND


def test_pictures_without_texture_give_no_pair(tmp_path: Path) -> None:
    flat = [np.full((128, 128, 3), value, np.uint8) for value in (3, 128, 250)]
    ramp = np.repeat(np.tile(np.linspace(0, 255, 128), (128, 1))[..., None], 3, axis=2)
    steep = np.clip(ramp * 1.2, 0, 255)
    noise = np.random.default_rng(0).integers(0, 4, (128, 128, 3))
    val = [*flat, ramp.astype(np.uint8), noise.astype(np.uint8)]
    other = np.random.default_rng(1).integers(0, 4, (128, 128, 3))
    pool = [image + 1 for image in flat] + [steep.astype(np.uint8), other.astype(np.uint8)]
    result = search_images(tmp_path / "pool", pool, make_index(tmp_path, val))
    assert result.pairs.num_rows == 0
    assert set(result.weak["image_id"].to_pylist()) >= {"p0", "p1", "p2", "p3"}


def rgba(colours: np.ndarray, clear: np.ndarray) -> Image.Image:
    """The picture, fully transparent where `clear` (bool)."""
    return Image.fromarray(np.dstack([colours, np.where(clear, 0, 255).astype(np.uint8)]))


def in_halves(image: np.ndarray, number: int) -> tuple[Image.Image, dict[str, Any]]:
    """A PNG whose white lower half is transparent in part: by `number`, which part."""
    image, clear = image.copy(), np.zeros(image.shape[:2], bool)
    image[120:] = 255
    clear[130 + 20 * number :] = True
    return rgba(image, clear), {"format": "PNG"}


def in_frames(image: np.ndarray, number: int) -> tuple[Image.Image, dict[str, Any]]:
    """An animation of which the first frame does not tell `number`."""
    later = Image.fromarray(picture(300 + number))
    return Image.fromarray(image), {"format": "PNG", "save_all": True, "append_images": [later]}


def in_ink(image: np.ndarray, number: int) -> tuple[Image.Image, dict[str, Any]]:
    """CMYK: of different inks that are one RGB."""
    return Image.fromarray(image).convert("CMYK"), {"format": "TIFF", "description": str(number)}


def in_depth(image: np.ndarray, number: int) -> tuple[Image.Image, dict[str, Any]]:
    """16 bits, the lower ones by `number`."""
    grey = image[..., 0].astype(np.uint16) * 256 + number
    return Image.fromarray(grey), {"format": "PNG"}


LOSSY = [in_halves, in_frames, in_ink, in_depth]


def written(path: Path, made: tuple[Image.Image, dict[str, Any]]) -> Path:
    image, options = made
    image.save(path, **options)
    return path


def indexed(folder: Path, paths: list[Path]) -> ValIndex:
    images = images_at({path.stem: path for path in paths})
    build_index(images, DedupConfig(), folder, 2, SilentMonitor())
    return load_index(folder)


@pytest.mark.parametrize("make", LOSSY)
def test_pixels_are_not_equal_where_the_decode_dropped_something(
    make: Callable[[np.ndarray, int], Any], tmp_path: Path
) -> None:
    paths = [written(tmp_path / f"{number}.x", make(picture(0), number)) for number in range(3)]
    assert len({decode(path.read_bytes()).tobytes() for path in paths}) == 1
    val = indexed(tmp_path / "i", paths[:1])
    pairs = search(paths, val).pairs
    channels = dict(zip(pairs["pool_id"].to_pylist(), pairs["channel"].to_pylist(), strict=True))
    assert channels.pop("0") == "bytes"
    assert set(channels.values()) <= {"phash", "sift"}  # what was compared does agree


@pytest.mark.parametrize("make", [*LOSSY, None])
@pytest.mark.parametrize("colour", [0, 255])
def test_blank_pictures_pair_by_their_bytes_alone_and_are_named(
    make: Callable[[np.ndarray, int], Any] | None, colour: int, tmp_path: Path
) -> None:
    blank = np.full((240, 320, 3), colour, np.uint8)
    if make is None:  # nothing is dropped, and yet a page with nothing on it tells nothing
        made = [(Image.fromarray(blank), {"format": kind}) for kind in ("PNG", "BMP", "JPEG")]
    elif make is in_halves:  # laid on white, so blank if that is its colour
        blank[:] = 255
        made = [make(blank, number) for number in range(3)]
    else:
        made = [make(blank, number) for number in range(3)]
    paths = [written(tmp_path / f"{number}.x", one) for number, one in enumerate(made)]
    val = indexed(tmp_path / "i", [paths[0], save(tmp_path / "v.png", picture(0))])
    found = search([*paths, save(tmp_path / "p.bmp", picture(0))], val)
    pairs = [(row["pool_id"], row["channel"]) for row in found.pairs.to_pylist()]
    assert pairs == [("0", "bytes"), ("p", "pixels")]
    weak = found.weak["image_id"].to_pylist()
    assert (weak, val.weak) == (["0", "1", "2"], ["0"])


def test_line_art_on_transparency_is_seen(tmp_path: Path) -> None:
    """Its colours are all black: what there is to see is in its alpha."""

    def drawn(number: int) -> Image.Image:
        strokes = cv2.Canny(picture(number), 100, 200) == 0
        return rgba(np.zeros((240, 320, 3), np.uint8), strokes)

    for name, number in (("a", 0), ("b", 1), ("copy", 0)):
        drawn(number).save(tmp_path / f"{name}.png", compress_level=9 if name == "copy" else 1)
    val = indexed(tmp_path / "i", [tmp_path / "a.png"])
    pairs = search([tmp_path / "b.png", tmp_path / "copy.png"], val).pairs.to_pylist()
    assert [(row["pool_id"], row["channel"]) for row in pairs] == [("copy", "phash")]
    assert val.weak == []


def digit(angle: float) -> np.ndarray:
    image = np.zeros((200, 200, 3), np.uint8)
    cv2.putText(image, "4", (50, 160), 0, 5, (255, 255, 255), 14)
    return cv2.warpAffine(image, cv2.getRotationMatrix2D((100, 100), angle, 0.9), (200, 200))


def test_two_writings_of_one_digit_are_too_little_to_tell(tmp_path: Path) -> None:
    val = make_index(tmp_path, [digit(0), picture(1)])
    result = search_images(tmp_path / "pool", [digit(12), picture(1)[40:200, 60:280]], val)
    assert result.pairs["val_id"].to_pylist() == ["v1"]
    assert val.weak == ["v0"]


def sign(words: str, size: tuple[int, int] = (200, 300)) -> np.ndarray:
    """Black lettering on white."""
    image = np.full((*size, 3), 255, np.uint8)
    for line, word in enumerate(words.split()):
        cv2.putText(image, word, (20, 60 + 60 * line), 0, 1.6, (0, 0, 0), 4)
    return image


def test_different_signs_give_no_pair(tmp_path: Path) -> None:
    val = make_index(tmp_path, [sign("EXIT ONLY HERE"), sign("NO ENTRY"), sign("OPEN DAILY")])
    pool = [sign("EXIT DOOR LEFT"), sign("NO PARKING"), sign("CLOSED TODAY"), sign("ONLY EXIT")]
    assert search_images(tmp_path / "pool", pool, val).pairs.num_rows == 0


def form(hand: int) -> np.ndarray:
    """A form of one print, filled in by the hand of `hand`."""
    image = np.repeat(np.full((720, 520), 235, np.uint8)[..., None], 3, axis=2)
    printed, rng = np.random.default_rng(0), np.random.default_rng([1, hand])
    image[:60] = 60
    cv2.putText(image, "CLAIM", (20, 48), 0, 1.4, (230, 230, 230), 3, cv2.LINE_AA)
    for y in range(100, 700, 44):
        words = "".join(printed.choice(list("abcdefghi   "), 12))
        cv2.putText(image, words, (16, y), 0, 0.7, (60, 60, 60), 2, cv2.LINE_AA)
        cv2.line(image, (220, y + 4), (500, y + 4), (120, 120, 120), 2)
        x = np.arange(230, rng.integers(320, 500), 6)
        stroke = np.column_stack([x + rng.normal(0, 2, len(x)), y - 4 - rng.uniform(0, 24, len(x))])
        cv2.polylines(image, [stroke.astype(np.int32)], False, (90, 40, 40), 2, cv2.LINE_AA)
    return image


def photographed(page: np.ndarray, seed: int) -> np.ndarray:
    """The page from a little aside, unevenly lit, with grain."""
    rng = np.random.default_rng(seed)
    height, width = page.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    moved = corners + rng.uniform(-0.03, 0.03, (4, 2)) * (width, height)
    turn = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    seen = cv2.warpPerspective(page, turn, (width, height), borderValue=(90, 90, 90))
    light = np.linspace(rng.uniform(0.6, 0.9), 1, width)[:, None]
    return (seen * light + rng.normal(0, 4, page.shape)).clip(0, 255).astype(np.uint8)


def test_forms_of_equal_print_are_the_same_only_in_one_hand(tmp_path: Path) -> None:
    index = make_index(tmp_path, [form(0), picture(1)])
    other = [form(1), form(2)[:, ::-1], photographed(form(3), 3), photographed(form(4), 4)]
    same = [shrunk(form(0), 0.6), photographed(form(0), 5), form(0)[:600], form(0)[:, ::-1]]
    images = [np.ascontiguousarray(image) for image in other + same]
    found = search_images(tmp_path / "pool", images, index)
    pairs = list(zip(*(found.pairs[c].to_pylist() for c in ("pool_id", "val_id")), strict=True))
    assert pairs == [(f"p{number}", "v0") for number in range(4, 8)]
    assert "p0" in found.refused["pool_id"].to_pylist()  # to be looked at


def framed(image: np.ndarray) -> np.ndarray:
    """The picture inside an ornate frame, the same for every picture, with a watermark."""
    height, width = image.shape[:2]
    frame = picture(999, height, width)
    inner = np.zeros((height, width, 1), bool)
    inner[height // 10 : -height // 10, width // 10 : -width // 10] = True
    framed_image = np.where(inner, image, frame)
    cv2.putText(framed_image, "(c) ACME", (110, 125), 0, 0.8, (255, 255, 255), 2)
    return framed_image


def test_the_same_frame_and_watermark_make_no_pair(tmp_path: Path) -> None:
    val = make_index(tmp_path, [framed(picture(i)) for i in range(4)])
    others = [framed(picture(50 + i)) for i in range(4)]
    plain = framed(np.full((240, 320, 3), 200, np.uint8))
    assert search_images(tmp_path / "pool", [*others, plain], val).pairs.num_rows == 0


def test_one_dense_watermark_over_different_pictures_makes_no_pair(tmp_path: Path) -> None:
    val = make_index(tmp_path, [watermark(picture(i)) for i in range(5)])
    pool = [watermark(picture(60 + i)) for i in range(4)] + [watermark(picture(0))[:, 30:]]
    pairs = search_images(tmp_path / "pool", pool, val).pairs
    assert list(zip(*(pairs[c].to_pylist() for c in ("pool_id", "val_id")), strict=True)) == [
        ("p4", "v0")
    ]


def test_the_coarse_search_spares_the_full_features_of_unrelated_pictures(tmp_path: Path) -> None:
    few = DedupConfig(coarse_vote=15)  # among so few val images chance votes loudly
    index = make_index(tmp_path, [picture(i) for i in range(NUM_VAL)], few)
    images = {"copy": np.hstack([picture(1), picture(50)]), "other": picture(70)}
    pictures = {
        name: describe(save(tmp_path / f"{name}.png", image), index.config)
        for name, image in images.items()
    }
    found = {name: judge(seen, index)[0] for name, seen in pictures.items()}
    assert [pair.row for pair in found["copy"]] == [1]
    assert found["other"] == []
    assert "features" in vars(pictures["copy"])
    assert "features" not in vars(pictures["other"])


def test_no_full_search_of_what_the_coarse_search_accounts_for(
    index: ValIndex, tmp_path: Path
) -> None:
    """But what of it no val image has found so far, as half a collage, may show another."""
    plain, mirrored = shrunk(picture(1), 0.7), picture(2)[20:220, 20:300][:, ::-1]
    collage = np.hstack([picture(4), picture(50)])
    for name, image, rows, in_full in (
        ("plain", plain, [1], False),
        ("mirrored", np.ascontiguousarray(mirrored), [2], False),
        ("bordered", ATTACKS["border"](picture(3)), [3], False),
        ("collage", collage, [4], True),
        ("itself", picture(5), [5], True),  # as within a pool, where it may have other copies
    ):
        seen = describe(save(tmp_path / f"{name}.png", image), index.config)
        found = judge(seen, index)[0]
        assert [pair.row for pair in found] == rows
        assert ("features" in vars(seen)) == in_full, name
        assert found[0].channel != "sift" or found[0].margin > 0.2  # no page limits it


def test_the_coarse_search_alone_refutes_other_pictures_of_one_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_room(number: int) -> np.ndarray:
        room = picture(0)
        room[28:220, 25:297] = picture(number)[28:220, 25:297]
        return room

    index = make_index(tmp_path, [in_room(70), *(picture(i) for i in range(1, 30))])
    path = save(tmp_path / "other.png", in_room(71))
    spared, suspected = (describe(path, index.config) for _ in range(2))
    assert judge(spared, index)[0] == []
    assert "features" not in vars(spared)
    monkeypatch.setattr(channels, "REFUTED", 0.0)
    assert judge(suspected, index)[0] == []
    assert "features" in vars(suspected)


@pytest.mark.parametrize("mirrored", [False, True])
def test_hashes_hint_at_what_lettering_hides_from_the_coarse_search(
    mirrored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = DedupConfig(coarse_vote=1000)
    index = make_index(tmp_path, [picture(i) for i in range(NUM_VAL)], blind)
    copy = lettered(picture(2)[:, ::-1] if mirrored else picture(2))
    path = save(tmp_path / "copy.png", copy)
    assert [(p.row, p.channel) for p in judge(describe(path, blind), index)[0]] == [(2, "sift")]
    monkeypatch.setattr(channels, "HINT_SHARE", 2.0)
    assert judge(describe(path, blind), index)[0] == []


def test_below_the_floor_sift_finds_nothing_whoever_asks(tmp_path: Path) -> None:
    demanding = DedupConfig(min_features=600)
    index = make_index(tmp_path, [picture(0)], demanding)
    assert index.weak == ["v0"]
    crop = describe(save(tmp_path / "crop.png", picture(0)[40:210, 60:286]), demanding)
    assert check_pair(crop, index, 0) is None
    assert judge(crop, index)[0] == []


@pytest.mark.slow
def test_a_gpu_changes_nothing_that_is_found(
    pool: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of a stage does not say on which machine it ran."""
    import faiss

    inverted = make_index(
        tmp_path, [picture(i) for i in range(NUM_VAL)], DedupConfig(max_exact=100)
    )
    want = search(pool, inverted).pairs
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", None, raising=False)
    assert search(pool, load_index(tmp_path / "i")).pairs == want


def test_a_picture_of_several_val_images_gives_several_pairs(
    index: ValIndex, tmp_path: Path
) -> None:
    collage = np.vstack([np.hstack([picture(4), picture(5)]), np.hstack([picture(6), picture(50)])])
    pairs = search_images(tmp_path, [collage], index).pairs
    assert sorted(pairs["val_id"].to_pylist()) == ["v4", "v5", "v6"]
    scores = pairs["score"].to_pylist()
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("max_exact", [0, 1 << 30])
def test_copies_of_what_val_holds_many_times_are_found(max_exact: int, tmp_path: Path) -> None:
    often = DedupConfig(num_neighbours=4, max_exact=max_exact)
    index = make_index(tmp_path, [picture(i) for i in (0, 1, 1, 1, 1, 1, 2, 3)], often)
    copy = describe(save(tmp_path / "crop.png", lettered(picture(1))[40:210, 60:286]), often)
    found = judge(copy, index)[0]
    assert sorted(pair.row for pair in found) == [1, 2, 3, 4, 5]
    assert {pair.channel for pair in found} == {"sift"}
    assert check_pair(copy, index, 4) is not None
    assert index.weak == []


def test_copies_inside_val_are_all_found(tmp_path: Path) -> None:
    val = make_index(tmp_path, [picture(0)] * 3 + [picture(1)])
    crop = picture(0)[30:200, 40:260]
    pairs = search_images(tmp_path / "pool", [crop], val).pairs
    assert sorted(pairs["val_id"].to_pylist()) == ["v0", "v1", "v2"]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pool")
    images = [list(ATTACKS.values())[i % len(ATTACKS)](picture(i % NUM_VAL)) for i in range(10)]
    images += [picture(200 + i) for i in range(3)]
    paths = [save(folder / f"p{i:02}.png", image) for i, image in enumerate(images)]
    for name, data in {
        "empty": b"",
        "text": b"no image",
        "cut": paths[0].read_bytes()[:900],
    }.items():
        path = folder / f"bad_{name}.png"
        path.write_bytes(data)
        paths.insert(5, path)
    return [*paths, folder / "bad_gone.png"]


def test_the_result_does_not_depend_on_workers_or_shards(index: ValIndex, pool: list[Path]) -> None:
    whole = search(pool, index, workers=1)
    threaded = search(pool, index, workers=5)
    parts = [search(pool[a:b], index, workers=2) for a, b in ((0, 4), (4, 5), (5, len(pool)))]
    assert whole.pairs.num_rows >= 10
    assert threaded == whole
    assert [row for part in parts for row in part.pairs.to_pylist()] == whole.pairs.to_pylist()
    assert [row for part in parts for row in part.rejected.to_pylist()] == (
        whole.rejected.to_pylist()
    )


def test_images_that_cannot_be_read_are_rows_and_stop_nothing(
    index: ValIndex, pool: list[Path]
) -> None:
    rejected = {row["image_id"]: row for row in search(pool, index).rejected.to_pylist()}
    assert {name: row["reason"] for name, row in rejected.items()} == {
        "bad_empty": "empty",
        "bad_text": "not_an_image",
        "bad_cut": "truncated",
        "bad_gone": "missing",
    }
    assert all(row["detail"] for row in rejected.values())


def test_val_images_that_cannot_be_read_are_counted(pool: list[Path], tmp_path: Path) -> None:
    images = images_at({path.stem: path for path in pool})
    build_index(images, DedupConfig(), tmp_path, 2, SilentMonitor())
    found = load_index(tmp_path)
    reasons = sorted(found.rejected["reason"].to_pylist())
    assert reasons == ["empty", "missing", "not_an_image", "truncated"]
    assert len(found) + len(found.rejected) == len(pool)
    ids = list(images.ids)
    table = pq.read_table(tmp_path / "rejected.parquet")
    assert sorted(table["image_id"].to_pylist()) == ["bad_cut", "bad_empty", "bad_gone", "bad_text"]
    assert load_index(tmp_path).ids == [name for name in ids if not name.startswith("bad")]


def test_equal_images_make_equal_index_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_index(tmp_path / name, [picture(i) for i in range(3)])
    a, b = ({p.name: p.read_bytes() for p in (tmp_path / x / "i").iterdir()} for x in "ab")
    assert a == b
    assert len(a) == 7


def test_the_inverted_file_finds_what_the_exact_search_finds(
    index: ValIndex, pool: list[Path], tmp_path: Path
) -> None:
    pictures = [picture(i) for i in range(NUM_VAL)]
    large = make_index(tmp_path, pictures, DedupConfig(max_exact=100))
    assert (tmp_path / "i" / "search.faiss").read_bytes()[:2] == b"Iw"
    assert search(pool, large).pairs == search(pool, index).pairs


def test_an_error_in_on_image_stops_the_scan_promptly(
    index: ValIndex, pool: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, read = 0, []

    def describing(source: Any, config: DedupConfig) -> Any:
        read.append(source)
        return describe(source, config)

    monkeypatch.setattr("ppcls_core.dedup.match.detect.describe", describing)

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    many = pool[:4] * 200
    with pytest.raises(KeyboardInterrupt):
        scan(many, [str(i) for i in range(len(many))], index, 2, stop)
    assert calls == 2
    assert len(read) < 100


def test_an_empty_pool_and_an_empty_val_set(
    index: ValIndex, pool: list[Path], tmp_path: Path
) -> None:
    nothing = search([], index)
    assert [table.num_rows for table in vars(nothing).values()] == [0, 0, 0, 0]
    build_index(images_at({}), DedupConfig(), tmp_path, 2, SilentMonitor())
    empty = load_index(tmp_path)
    assert len(empty) == 0
    assert search(pool[:2], empty).pairs.num_rows == 0


def test_a_missing_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="remove this folder and run again"):
        load_index(tmp_path)


@pytest.mark.skipif(not CLOTHING.is_dir(), reason="the shared clothing photographs are not here")
def test_planted_copies_of_clothing_photographs_are_found(tmp_path: Path) -> None:
    with (CLOTHING / "planted_duplicates.csv").open() as file:
        planted = list(csv.DictReader(file))[:20]
    lines = (CLOTHING / "pool_list.txt").read_text().split()
    others = [name for name in lines if "dup_" not in name][:10]
    val = [CLOTHING / "images" / row["val_image"] for row in planted]
    build_index(images_at({p.name: p for p in val}), DedupConfig(), tmp_path, 2, SilentMonitor())
    copies = [CLOTHING / "images" / row["pool_image"] for row in planted]
    images = copies + [CLOTHING / name for name in others]
    result = scan(images, [path.name for path in images], load_index(tmp_path), 2, lambda: None)
    pairs = list(zip(*(result.pairs[c].to_pylist() for c in ("pool_id", "val_id")), strict=True))
    assert pairs == [(row["pool_image"], row["val_image"]) for row in planted]


def test_an_index_that_cannot_be_read_now_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody shall remove it: it may have cost hours."""
    make_index(tmp_path, [picture(0)])

    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files", "images.parquet")

    monkeypatch.setattr("ppcls_core.dedup.match.index.pq.read_table", fail)
    with pytest.raises(UserError, match=r"cannot be read .*Too many open .*run again") as told:
        load_index(tmp_path / "i")
    assert "damaged" not in str(told.value)
    assert "remove" not in str(told.value)


@pytest.mark.parametrize("name", ["search.faiss", "images.parquet", "points.bin", "greys.bin"])
@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_index_is_refused(name: str, cut: bool, tmp_path: Path) -> None:
    make_index(tmp_path, [picture(0)])
    file = tmp_path / "i" / name
    if cut:
        os.truncate(file, file.stat().st_size // 2)
    else:
        file.unlink()
    with pytest.raises(UserError, match="damaged"):
        load_index(tmp_path / "i")


def test_an_index_of_other_images_is_refused(tmp_path: Path) -> None:
    for name, count in (("a", 1), ("b", 2)):
        make_index(tmp_path / name, [picture(i) for i in range(count)])
    mixed = tmp_path / "a" / "i"
    (tmp_path / "b" / "i" / "search.faiss").replace(mixed / "search.faiss")
    with pytest.raises(UserError, match="damaged"):
        load_index(mixed)
    (mixed / "index.json").write_text(f'{{"format": {FORMAT}}}')
    with pytest.raises(UserError, match="damaged"):
        load_index(mixed)


def test_few_descriptors_are_compared_exactly(tmp_path: Path) -> None:
    index = make_index(tmp_path, [picture(0)[:80, :80]], DedupConfig(max_exact=0))
    (pair,) = search_images(tmp_path / "pool", [picture(0)[:70, 5:80]], index).pairs.to_pylist()
    assert pair["val_id"] == "v0"


def test_a_picture_itself_does_not_compete_with_its_copies(tmp_path: Path) -> None:
    """Within a pool every image is among those searched."""
    index = make_index(tmp_path, [picture(0), lettered(picture(0)), picture(1)])
    for image in (picture(0), lettered(picture(0))):
        pairs = search_images(tmp_path / "pool", [image], index).pairs
        assert set(pairs["val_id"].to_pylist()) == {"v0", "v1"}
