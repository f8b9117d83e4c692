"""`ppcls dedup` as functions: what is collected, what is left, resuming, verifying."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from data_catalog.config import UserError
from ppcls_core.dedup import command
from ppcls_core.dedup.collection import collect
from ppcls_core.dedup.command import Search, dedup
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.picture import read_source
from ppcls_core.dedup.removal import summary, verify_removal
from ppcls_core.dedup.within import keep_one_of_each, one_way
from ppcls_core.monitor import Interrupted, SilentMonitor

CONFIG = DedupConfig(num_features=120, min_side=96)


def picture(seed: int) -> np.ndarray:
    """BGR uint8 scene of discs and grain."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.uniform(40, 215, (6, 8, 3)), (160, 120), interpolation=3)
    for _ in range(30):
        centre, axes = rng.integers(0, (160, 120)).tolist(), rng.integers(3, 18, 2).tolist()
        cv2.ellipse(image, centre, axes, 0, 0, 360, rng.uniform(0, 255, 3).tolist(), -1)
    grain = cv2.GaussianBlur(rng.normal(0, 18, image.shape), (0, 0), 1.2)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(path.suffix, image)
    path.write_bytes(data.tobytes())


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


def run(pool: Path, against: Path | None, out: Path) -> dict[str, int]:
    return dedup(Search(pool, against, out, CONFIG, 2), SilentMonitor())


def column(path: Path, name: str) -> list[str]:
    return pq.read_table(path)[name].to_pylist()


DUPLICATES = {"a/crop.jpg": "v0.png", "a/mirror.jpg": "v1.png", "same.png": "v2.png"}


def test_a_pool_against_a_set(sets: Path, tmp_path: Path) -> None:
    counts = run(sets / "pool", sets / "val", tmp_path)
    assert counts == {
        **{"in": 8, "kept": 3, "duplicates": 3, "empty": 1, "not_an_image": 1},
        **{"weak": 0, "pairs": 3},
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
    images = collect(tmp_path / "tars" / "a.tar")
    (source, _) = images.sources(range(2))
    assert read_source(source) == (sets / "pool" / "a" / "crop.jpg").read_bytes()


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
        "transform": [2.0, 0, 4, 0, 2, 6, 0, 0, 1],
    }


def test_an_image_goes_only_for_one_that_stays() -> None:
    rank = {name: place for place, name in enumerate("abcd")}
    chain = one_way([pair("a", "b"), pair("c", "b", 0.8), pair("b", "c"), pair("d", "d")], rank)
    found = [(row["pool_id"], row["val_id"], row["score"]) for row in chain]
    assert found == [("b", "a", 0.9), ("c", "b", 0.9)]
    assert chain[0]["transform"] == [0.5, 0, -2, 0, 0.5, -3, 0, 0, 1]
    assert keep_one_of_each(chain, rank) == {"b": "a"}  # c's better one is gone, so c stays


class Stopper(SilentMonitor):
    """Asks to stop after some images of the pool."""

    def __init__(self, images: int) -> None:
        self.left = images

    @property
    def stop_requested(self) -> bool:  # type: ignore[override]
        return self.left <= 0

    def progress(self, done: int, total: int, unit: str) -> None:
        self.left -= unit == "images"


def test_a_stopped_search_goes_on(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "SHARD", 3)
    search = Search(sets / "pool", sets / "val", tmp_path / "out", CONFIG, 1)
    with pytest.raises(Interrupted):
        dedup(search, Stopper(5))
    left = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "shards").iterdir()}
    assert len(left) == 1
    assert not (tmp_path / "out" / "kept.parquet").exists()
    dedup(search, SilentMonitor())
    assert (
        left.items()
        <= {
            path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "shards").iterdir()
        }.items()
    )
    run(sets / "pool", sets / "val", tmp_path / "whole")
    for name in ("pairs", "kept", "rejected"):
        file = f"{name}.parquet"
        assert pq.read_table(tmp_path / "out" / file) == pq.read_table(tmp_path / "whole" / file)


def test_mistakes_are_told(sets: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "file").write_text("x")
    pool, val = sets / "pool", sets / "val"
    for arguments, words in (
        ((tmp_path / "gone", val, tmp_path / "o"), "no folder, list file or tar"),
        ((tmp_path / "nothing", val, tmp_path / "o"), "holds no image"),
        ((pool, pool, tmp_path / "o"), "use --within"),
        ((pool, val, pool / "out"), "take another folder"),
        ((pool, val, tmp_path / "file"), "is a file"),
        ((pool / "same.png", val, tmp_path / "o"), "is an image"),
    ):
        with pytest.raises(UserError, match=words):
            run(*arguments)
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
    assert "\\xff odd\n.png" in images.ids(range(6))
    counts = run(pool, sets / "val", tmp_path / "out")
    assert (counts["duplicates"], counts["missing"]) == (5, 1)


def test_a_removal_can_be_verified(sets: Path, tmp_path: Path) -> None:
    shutil.copytree(sets / "pool", tmp_path / "pool")
    run(tmp_path / "pool", sets / "val", tmp_path / "out")
    listed = tmp_path / "out" / "removed.json"
    verified = verify_removal(listed, tmp_path / "pool", sets / "val")
    assert summary(verified) == {
        **{"agrees": 3, "other_score": 0, "no_pair": 0},
        **{"other_file": 0, "missing": 0},
    }
    save(tmp_path / "pool" / "a" / "crop.jpg", picture(77))
    (tmp_path / "pool" / "same.png").unlink()
    data = json.loads(listed.read_text())
    (entry,) = (e for e in data["removed"] if e["image_id"] == "a/mirror.jpg")
    entry["pairs"][0]["score"] -= 0.2
    listed.write_text(json.dumps(data))
    found = {v.image_id: v.verdict for v in verify_removal(listed, tmp_path / "pool", sets / "val")}
    assert found == {
        "a/crop.jpg": "other_file",
        "same.png": "missing",
        "a/mirror.jpg": "other_score",
    }
    with pytest.raises(UserError, match="no removal list"):
        verify_removal(tmp_path / "out" / "search.json", tmp_path / "pool", sets / "val")
