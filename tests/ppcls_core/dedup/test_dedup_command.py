"""`ppcls dedup` as functions: what is collected, what is left, resuming, verifying."""

import csv
import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.base.config import UserError
from data_catalog.images.collect import collect
from ppcls_core.cli.dedup import search_given
from ppcls_core.data.decode import MAX_BYTES, read_bytes
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.match import index
from ppcls_core.dedup.match.pairs import FOUND
from ppcls_core.dedup.match.within import keep_one_of_each, one_way
from ppcls_core.dedup.result.removal import ALTERED, summary, verify_removal
from ppcls_core.dedup.result.write import SearchResult
from ppcls_core.dedup.run import find_duplicates
from ppcls_core.dedup.search import Search
from ppcls_core.runtime.monitor import Interrupted, SilentMonitor

CONFIG = DedupConfig(num_features=120, min_side=96, canaries=0)


def picture(seed: int) -> np.ndarray:
    """BGR uint8 scene of discs and grain."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.uniform(40, 215, (6, 8, 3)), (160, 120), interpolation=3)
    for _ in range(30):
        centre, axes = rng.integers(0, (160, 120)).tolist(), rng.integers(3, 18, 2).tolist()
        cv2.ellipse(image, centre, axes, 0, 0, 360, rng.uniform(0, 255, 3).tolist(), -1)
    grain = cv2.GaussianBlur(rng.normal(0, 18, image.shape), (0, 0), 1.2)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def encoded(image: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(image, path.suffix))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pool/: two altered copies of val images, one file copy, three others, two bad files."""
    root = tmp_path_factory.mktemp("sets")
    for number in range(4):
        save(root / "val" / f"v{number}.png", picture(number))
    save(root / "pool" / "a" / "crop.jpg", picture(0)[10:110, 20:150])
    save(root / "pool" / "a" / "mirror.jpg", np.ascontiguousarray(picture(1)[:, ::-1]))
    shutil.copy(root / "val" / "v2.png", root / "pool" / "same.png")
    for number in range(3):
        save(root / "pool" / "b" / f"other{number}.png", picture(50 + number))
    (root / "pool" / "b" / "empty.jpg").write_bytes(b"")
    (root / "pool" / "b" / "words.jpg").write_bytes(b"no picture")
    (root / "pool" / "readme.txt").write_text("no image")
    return root


def search(pool: Path, against: Path | None, out: Path, **changes: Any) -> SearchResult:
    config = CONFIG.model_copy(update=changes)
    return search_given(pool, against, out, config, SilentMonitor())


def run(pool: Path, against: Path | None, out: Path) -> dict[str, int]:
    return search(pool, against, out).pool_counts


def column(path: Path, name: str) -> list[Any]:
    return pq.read_table(path)[name].to_pylist()


DUPLICATES = {"a/crop.jpg": "v0.png", "a/mirror.jpg": "v1.png", "same.png": "v2.png"}


def test_a_pool_against_a_set(sets: Path, tmp_path: Path) -> None:
    counts = run(sets / "pool", sets / "val", tmp_path)
    assert counts == {
        **{"in": 8, "kept": 3, "duplicates": 3, "empty": 1, "not_an_image": 1},
        **{"too_few_features": 0, "pairs": 3},
    }
    assert column(tmp_path / "kept.parquet", "image_id") == [f"b/other{i}.png" for i in range(3)]
    rejected = {
        row["image_id"]: row for row in pq.read_table(tmp_path / "rejected.parquet").to_pylist()
    }
    assert {i: r["detail"] for i, r in rejected.items() if r["reason"] == "duplicate"} == DUPLICATES
    assert rejected["b/empty.jpg"]["reason"] == "empty"
    pairs = pq.read_table(tmp_path / "pairs.parquet").to_pylist()
    assert {p["pool_id"]: p["val_id"] for p in pairs} == DUPLICATES
    assert {p["pool_id"]: p["channel"] for p in pairs}["same.png"] == "bytes"


def make_tar(path: Path, folder: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.add(file, file.relative_to(folder).as_posix())


def test_tars_give_what_their_files_give(sets: Path, tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    for name in ("a", "b"):
        make_tar(tmp_path / "tars" / f"{name}.tar", sets / "pool" / name)
    before = sorted(tmp_path.rglob("*"))
    counts = run(tmp_path / "tars", sets / "val", tmp_path / "out")
    assert (counts["in"], counts["kept"], counts["duplicates"]) == (7, 3, 2)
    found = column(tmp_path / "out" / "pairs.parquet", "pool_id")
    assert found == ["a.tar/crop.jpg", "a.tar/mirror.jpg"]
    assert sorted(p for p in tmp_path.rglob("*") if "out" not in p.parts) == before
    source, _ = collect(tmp_path / "tars" / "a.tar").sources()
    assert read_bytes(source) == (sets / "pool" / "a" / "crop.jpg").read_bytes()


def test_a_tar_that_ends_too_soon_is_a_row(sets: Path, tmp_path: Path) -> None:
    make_tar(tmp_path / "all.tar", sets / "pool" / "a")
    whole = (tmp_path / "all.tar").read_bytes()
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "cut.tar").write_bytes(whole[: whole.index(b"mirror.jpg") + 600])
    (tmp_path / "pool" / "words.tar").write_bytes(b"no tar" * 400)
    counts = run(tmp_path / "pool", sets / "val", tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert {"words.tar": "damaged_tar", "cut.tar/mirror.jpg": "truncated"}.items() <= {
        row["image_id"]: row["reason"] for row in rows
    }.items()
    assert counts["in"] == counts["kept"] + counts["duplicates"] + 1 + counts["damaged_tar"]


def test_a_list_names_images_beside_itself(sets: Path, tmp_path: Path) -> None:
    shutil.copytree(sets / "pool", tmp_path / "pool")
    lines = ["pool/a/crop.jpg 3", "pool/b/other0.png", "pool/gone.jpg 1"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    counts = run(tmp_path / "list.txt", sets / "val", tmp_path / "out")
    assert (counts["kept"], counts["duplicates"], counts["missing"]) == (1, 1, 1)


def test_within_keeps_the_largest_of_those_alike(sets: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    shutil.copytree(sets / "val", pool)
    save(pool / "z_large.png", cv2.resize(picture(3), None, fx=2, fy=2))
    save(pool / "crop.png", picture(3)[8:112, 10:150])
    counts = run(pool, None, tmp_path / "out")
    assert (counts["in"], counts["kept"], counts["duplicates"]) == (6, 4, 2)
    assert "z_large.png" in column(tmp_path / "out" / "kept.parquet", "image_id")
    rows = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert {r["image_id"]: r["detail"] for r in rows} == dict.fromkeys(
        ["crop.png", "v3.png"], "z_large.png"
    )


def pair(pool_id: str, val_id: str, score: float = 0.9) -> dict[str, object]:
    return {
        **{"pool_id": pool_id, "val_id": val_id, "score": score},
        **{"pool_sha256": pool_id * 2, "val_sha256": val_id * 2},
        "transform": [2.0, 0, 4, 0, 2, 6, 0, 0, 1],
    }


def test_an_image_goes_only_for_one_that_stays() -> None:
    pairs = [pair("a", "b"), pair("c", "b", 0.8), pair("b", "c"), pair("c", "b")]
    chain = one_way(pa.Table.from_pylist(pairs, FOUND), pa.array(list("abcd")))
    assert chain.schema == FOUND
    rows = chain.to_pylist()
    found = [(row["pool_id"], row["val_id"], row["score"]) for row in rows]
    assert found == [("b", "a", np.float32(0.9)), ("c", "b", np.float32(0.9))]
    assert (rows[0]["pool_sha256"], rows[0]["val_sha256"]) == ("bb", "aa")
    assert rows[0]["transform"] == [0.5, 0, -2, 0, 0.5, -3, 0, 0, 1]
    assert rows[1]["transform"] == [0.5, 0, -2, 0, 0.5, -3, 0, 0, 1]  # the first of equal scores
    assert keep_one_of_each(chain) == {"b": "a"}  # c's better one is gone, so c stays


class Stopper(SilentMonitor):
    """Asks to stop after some images of the pool, or of another unit."""

    def __init__(self, images: int, unit: str = "images") -> None:
        self.left, self.unit = images, unit

    @property
    def stop_requested(self) -> bool:  # type: ignore[override]
        return self.left <= 0

    def progress(self, done: int, total: int, unit: str) -> None:
        self.left -= unit == self.unit


def test_a_stopped_search_goes_on(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "SHARD_SIZE", 2)
    pool, val = collect(sets / "pool"), collect(sets / "val")
    search = Search(pool, val, tmp_path / "out", CONFIG, 1, shard_size=3)
    with pytest.raises(Interrupted):
        find_duplicates(search, Stopper(3, "images indexed"))
    (half,) = (tmp_path / "out" / "index" / "shards").glob("*.json")
    assert half.name == "shard-00000.json"
    with pytest.raises(Interrupted):
        find_duplicates(search, Stopper(5))
    left = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "shards").iterdir()}
    assert len(left) == 5  # a record and four tables
    assert not (tmp_path / "out" / "kept.parquet").exists()
    find_duplicates(search, SilentMonitor())
    assert (
        left.items()
        <= {
            path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "shards").iterdir()
        }.items()
    )
    monkeypatch.undo()
    run(sets / "pool", sets / "val", tmp_path / "whole")
    for name in ("pairs", "kept", "rejected"):
        file = f"{name}.parquet"
        assert pq.read_table(tmp_path / "out" / file) == pq.read_table(tmp_path / "whole" / file)


def test_mistakes_are_told(sets: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "absolute.txt").write_text("a.jpg 1\n/etc/b.jpg 2\n")
    (tmp_path / "twice.txt").write_text("a.jpg 1\n./a.jpg 2\n")
    (tmp_path / "noise.txt").write_bytes("a.jpg".encode("utf-16"))
    pool, val = sets / "pool", sets / "val"
    for arguments, words in (
        ((tmp_path / "gone", val, tmp_path / "o"), "no folder, list file or tar"),
        ((pool, pool, tmp_path / "o"), "use --within"),
        ((pool, val, pool / "out"), "take another folder"),
        ((pool, val, tmp_path / "file"), "is a file"),
        ((pool / "same.png", val, tmp_path / "o"), "is an image"),
        ((tmp_path / "absolute.txt", val, tmp_path / "o"), "absolute.txt:2: got the absolute path"),
        ((tmp_path / "twice.txt", val, tmp_path / "o"), "'a.jpg' is also in line"),
        ((tmp_path / "noise.txt", val, tmp_path / "o"), "is a list in UTF-16"),
    ):
        with pytest.raises(UserError, match=words):
            run(*arguments)
    assert not (tmp_path / "o").exists()
    run(pool, val, tmp_path / "done")
    with pytest.raises(UserError, match="other images or settings"):
        run(val, pool, tmp_path / "done")


def test_links_and_odd_names(sets: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    shutil.copytree(sets / "val", pool / "in")
    (pool / "in" / "back").symlink_to(pool)
    (pool / "broken.jpg").symlink_to(pool / "gone")
    shutil.copy(sets / "val" / "v0.png", pool / os.fsdecode(b"\xff odd\n.png"))
    images = collect(pool)
    assert len(images) == 4 + 1 + 1
    assert "\\xff odd\n.png" in set(images.ids)
    counts = run(pool, sets / "val", tmp_path / "out")
    assert (counts["duplicates"], counts["missing"]) == (5, 1)


def test_a_removal_can_be_verified(sets: Path, tmp_path: Path) -> None:
    shutil.copytree(sets / "pool", tmp_path / "pool")
    run(tmp_path / "pool", sets / "val", tmp_path / "out")
    listed = tmp_path / "out" / "removed.json"
    verified, notes = verify_removal(listed, tmp_path / "pool", sets / "val")
    assert summary(verified)["agrees"] == len(verified) == 3
    assert notes == []
    save(tmp_path / "pool" / "a" / "crop.jpg", picture(77))
    (tmp_path / "pool" / "same.png").unlink()
    verified, _ = verify_removal(listed, tmp_path / "pool", sets / "val")
    assert {v.image_id: v.verdict for v in verified} == {
        "a/crop.jpg": "other_file",
        "same.png": "missing",
        "a/mirror.jpg": "agrees",
    }
    with pytest.raises(UserError, match="no removal list"):
        verify_removal(tmp_path / "out" / "search.json", tmp_path / "pool", sets / "val")
    with pytest.raises(UserError, match="of a search --against; verify it so"):
        verify_removal(listed, tmp_path / "pool", None)


def fewer(data: dict[str, Any]) -> None:
    data["removed"].pop()
    data["num_removed"] -= 1


def reordered(data: dict[str, Any]) -> None:
    data["removed"].reverse()


def counted(data: dict[str, Any]) -> None:
    data["num_removed"] = 7


def score(data: dict[str, Any]) -> None:
    evidence(data)["score"] -= 0.2


def moved(data: dict[str, Any]) -> None:
    evidence(data)["transform"][2] += 30


def flat(data: dict[str, Any]) -> None:
    evidence(data)["transform"] = [0.0] * 9


def swapped(data: dict[str, Any]) -> None:
    evidence(data)["val_id"] = "v3.png"


def unrelated(data: dict[str, Any]) -> None:
    swapped(data)
    digest = hashlib.sha256(encoded(picture(3))).hexdigest()
    evidence(data)["val_sha256"] = digest


def version(data: dict[str, Any]) -> None:
    data["versions"]["numpy"] = "0.1"


def evidence(data: dict[str, Any]) -> dict[str, Any]:
    (entry,) = (e for e in data["removed"] if e["image_id"] == "a/mirror.jpg")
    return entry["pairs"][0]


@pytest.mark.parametrize(
    ("alter", "verdict"),
    [
        (fewer, "agrees"),
        (reordered, "agrees"),
        (counted, "agrees"),
        (score, "other_score"),
        (moved, "other_map"),
        (flat, "other_map"),
        (swapped, "other_file"),
        (unrelated, "no_pair"),
        (version, "agrees"),
    ],
)
def test_an_altered_list_is_told(
    sets: Path, removed: str, tmp_path: Path, alter: Callable[[dict[str, Any]], None], verdict: str
) -> None:
    data = json.loads(removed)
    alter(data)
    (tmp_path / "removed.json").write_text(json.dumps(data))
    verified, notes = verify_removal(tmp_path / "removed.json", sets / "pool", sets / "val")
    assert ALTERED in notes
    assert any("numpy 0.1" in note for note in notes) == (alter is version)
    found = {v.image_id: v.verdict for v in verified}
    assert found.get("a/mirror.jpg", "agrees") == verdict


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 1}, "no removal list of format 4"),
        ({"settings": {"rule": "lax"}}, "rule"),
        ({"settings": {"colour": 1}}, "colour"),
        ({"removed": "all"}, "removed"),
        ({"removed": [{"image_id": "x"}]}, "sha256"),
        ({"digest": None}, "digest"),
    ],
)
def test_a_malformed_list_is_refused(
    sets: Path, removed: str, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    (tmp_path / "removed.json").write_text(json.dumps(json.loads(removed) | change))
    with pytest.raises(UserError, match=words):
        verify_removal(tmp_path / "removed.json", sets / "pool", sets / "val")


@pytest.fixture(scope="module")
def removed(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The removal list of the sets."""
    out = tmp_path_factory.mktemp("removed")
    run(sets / "pool", sets / "val", out / "out")
    return (out / "out" / "removed.json").read_text()


def test_a_removal_within_can_be_verified(sets: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    shutil.copytree(sets / "val", pool)
    save(pool / "z_large.png", cv2.resize(picture(3), None, fx=2, fy=2))
    save(pool / "crop.png", picture(3)[8:112, 10:150])
    save(pool / "a_mirror.jpg", np.ascontiguousarray(picture(1)[:, ::-1]))
    run(pool, None, tmp_path / "out")
    verified, notes = verify_removal(tmp_path / "out" / "removed.json", pool, None)
    assert summary(verified)["agrees"] == len(verified) >= 3
    assert notes == []


def test_what_a_killed_search_was_writing_is_removed(sets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(sets / "pool", sets / "val", out)
    left = [out / ".tmp-1-pairs.parquet", out / "shards" / ".tmp-1-shard-00000.json"]
    for path in left:
        path.write_text("half")
    (out / "shards" / "shard-00000.json").write_text('{"shard-00000.pairs.parquet": {')
    run(sets / "pool", sets / "val", out)
    assert not any(path.exists() for path in left)
    assert column(out / "kept.parquet", "image_id") == [f"b/other{i}.png" for i in range(3)]


def test_a_folder_of_other_files_is_left_alone(sets: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="holds other files; take a new folder"):
        run(sets / "pool", sets / "val", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_bad_images_are_counted_by_reason_and_weak_ones_named(sets: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    save(pool / "black.png", np.full((120, 160, 3), 2, np.uint8))
    save(pool / "tiny.png", picture(0)[:10, :10])
    (pool / "cut.png").write_bytes((sets / "val" / "v0.png").read_bytes()[:4000])
    frames = [Image.fromarray(picture(seed)[..., ::-1]) for seed in (0, 60)]
    frames[0].save(pool / "moves.gif", save_all=True, append_images=frames[1:])
    os.mkfifo(pool / "pipe.png")
    (pool / "folder.png").mkdir()
    with (pool / "huge.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    result = search(pool, sets / "val", tmp_path / "out")
    assert result.passed_over == {"special_file": 1}
    assert result.pool_counts == {
        **{"in": 5, "kept": 1, "duplicates": 1, "decompression_bomb": 1},
        **{"too_small": 1, "truncated": 1, "too_few_features": 1, "pairs": 1},
    }
    assert column(tmp_path / "out" / "weak.parquet", "image_id") == ["black.png"]
    assert column(tmp_path / "out" / "pairs.parquet", "pool_id") == ["moves.gif"]


def test_pairs_as_csv_hold_no_formula(sets: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    for name in ("=1+1.png", "-a,b.png", '@say "x"\n.png', "v0.png"):
        (pool / name).parent.mkdir(exist_ok=True)
        shutil.copy(sets / "val" / "v0.png", pool / name)
    run(pool, sets / "val", tmp_path / "out")
    with (tmp_path / "out" / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ids = column(tmp_path / "out" / "pairs.parquet", "pool_id")
    assert len(rows) == len(ids) == 4
    assert [row["pool_id"].removeprefix("./") for row in rows] == ids
    assert not any(cell.startswith(tuple("=+-@")) for row in rows for cell in row.values())
    assert {(row["val_id"], row["channel"], row["transform_00"]) for row in rows} == {
        ("v0.png", "bytes", "1.0")
    }


def test_canaries_of_a_search_are_no_images_of_the_pool(sets: Path, tmp_path: Path) -> None:
    before = run(sets / "pool", sets / "val", tmp_path / "without")
    after = search(sets / "pool", sets / "val", tmp_path / "with", canaries=40)
    assert after.pool_counts == before
    for name in ("pairs", "kept", "rejected"):
        one, other = (
            pq.read_table(tmp_path / of / f"{name}.parquet") for of in ("with", "without")
        )
        assert one == other
    found = column(tmp_path / "with" / "canaries.parquet", "found")
    assert len(found) == 40
    assert sum(found) >= 36
    page = (tmp_path / "with" / "pairs.html").read_text()
    assert "Recall estimate on this data set" in page
    assert "a/crop.jpg" in page
