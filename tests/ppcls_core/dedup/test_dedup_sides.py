"""Both sides of a search account for every image; empty ones, links and changed contents."""

import itertools
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.base.config import UserError
from data_catalog.images.columns import REJECTED, Images, PassedOver, read_images
from ppcls_core.cli.dedup import search_given
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.result.removal import read_removal
from ppcls_core.dedup.result.write import SearchResult
from ppcls_core.dedup.run import find_duplicates
from ppcls_core.dedup.search import Search
from ppcls_core.report.search import write_search_page
from ppcls_core.runtime.monitor import SilentMonitor
from tests.ppcls_core.dedup.test_dedup_command import encoded, picture, save
from tests.support.images import images_at

CONFIG = DedupConfig(num_features=120, min_side=96, canaries=0)
NOTHING = images_at({})


class Listener(SilentMonitor):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def lost(folder: Path) -> dict[str, Path]:
    """A file for each way in which an image can be lost, by its reason."""
    folder.mkdir(parents=True, exist_ok=True)
    data = encoded(picture(9))
    contents = {
        "empty": b"",
        "not_an_image": b"words" * 90,
        "truncated": data[: len(data) // 2],
        "too_small": encoded(picture(9)[:9, :9]),
        "missing": None,
    }
    paths = {reason: folder / f"{reason}.png" for reason in contents}
    for reason, content in contents.items():
        if content is not None:
            paths[reason].write_bytes(content)
    return paths


def good(folder: Path, seeds: list[int]) -> dict[str, Path]:
    paths = {f"{seed}.png": folder / f"{seed}.png" for seed in seeds}
    for seed in seeds:
        save(folder / f"{seed}.png", picture(seed))
    return paths


def run(pool: Images, val: Images | None, out: Path, listener: Listener) -> SearchResult:
    search = Search(pool, val, out, CONFIG, 2, shard_size=3)
    result = find_duplicates(search, listener)
    write_search_page(search, result)
    for name in search.files():
        assert (out / name).is_file(), name
    return result


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("weak", [False, True])
def test_every_image_of_both_sides_is_accounted_for(
    within: bool, weak: bool, tmp_path: Path
) -> None:
    bad = lost(tmp_path / "bad")
    paths = {**good(tmp_path / "pool", [1, 2, 3]), **bad}
    if weak:
        save(
            paths.setdefault("flat.png", tmp_path / "flat.png"), np.full((120, 160, 3), 7, np.uint8)
        )
    over = (PassedOver("not_an_image", 2, ("a.txt", "b.txt")),)
    tar = pa.Table.from_pylist(
        [{"image_id": "x.tar", "reason": "damaged_tar", "detail": "cut"}], REJECTED
    )
    pool = replace(images_at(paths), passed_over=over, damaged=tar)
    val = images_at({**bad, **good(tmp_path / "val", [3, 4])}) if weak else pool
    val = replace(val, passed_over=over, damaged=tar)
    listener = Listener()
    result = run(pool, None if within else val, tmp_path / "out", listener)
    said, reasons = "\n".join(listener.notes), dict.fromkeys(sorted([*bad, "damaged_tar"]), 1)
    listed, _ = read_removal(tmp_path / "out" / "removed.json")
    assert listed.pool == result.pool
    assert listed.against == result.val
    assert result.pool.rejected == reasons
    assert result.pool.images == len(pool) + 1
    assert result.pool.passed_over == {"not_an_image": 2}
    assert result.pool.too_few_features == weak
    kept = read_images(tmp_path / "out" / "kept.arrow", pool.roots)
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet")["image_id"].to_pylist()
    assert Counter([*kept.ids, *rejected]) == Counter([*pool.ids, "x.tar"])
    assert kept.ids == pq.read_table(tmp_path / "out" / "kept.parquet")["image_id"].to_pylist()
    assert "; passed over 2 files: 2 not an image (a.txt, b.txt); damaged 1: x.tar" in said
    page = (tmp_path / "out" / "pairs.html").read_text()
    assert "passed over" in page
    if within:
        assert (result.val, result.val_counts) == (None, {})
        return
    assert result.val is not None
    assert result.val.rejected == reasons
    assert result.val.images == result.val.used + len(bad) + 1
    unread = pq.read_table(tmp_path / "out" / "val_rejected.parquet")["reason"].to_pylist()
    assert sorted(unread) == sorted(reasons)
    assert "5 of" in said
    assert "are not searched for: 1 empty, 1 missing, 1 not an image, 1 too small" in said
    assert "searched for" in page


@pytest.mark.parametrize("num_bad", [0, 5])
def test_without_a_validation_image_there_is_nothing_to_search_for(
    num_bad: int, tmp_path: Path
) -> None:
    bad = dict(itertools.islice(lost(tmp_path / "bad").items(), num_bad))
    pool = images_at(good(tmp_path / "pool", [1]))
    with pytest.raises(UserError, match="no validation image can be read, expected at least one"):
        run(pool, images_at(bad), tmp_path / "out", Listener())
    assert not (tmp_path / "out" / "removed.json").exists()


def test_a_validation_set_of_too_few_features_is_told(tmp_path: Path) -> None:
    save(tmp_path / "flat.png", np.full((120, 160, 3), 7, np.uint8))
    pool, listener = images_at(good(tmp_path / "pool", [1])), Listener()
    result = run(pool, images_at({"flat": tmp_path / "flat.png"}), tmp_path / "out", listener)
    assert result.val_counts == {"in": 1, "searched for": 1, "too_few_features": 1}
    assert any("1 of 1 images have too few features" in note for note in listener.notes)


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("kind", ["empty", "rejected", "one", "duplicates"])
def test_a_poor_pool_gives_a_whole_result(within: bool, kind: str, tmp_path: Path) -> None:
    val = good(tmp_path / "val", [1, 2])
    copies = {f"copy{n}": path for n, path in enumerate([*val.values()] * 2)}
    pool = {
        "empty": {},
        "rejected": lost(tmp_path / "bad"),
        "one": good(tmp_path / "pool", [7]),
        "duplicates": {},
    }[kind]
    if kind == "duplicates":
        for name, path in copies.items():
            pool[name] = Path(shutil.copy(path, tmp_path / name))
    images = images_at(pool)
    result = run(images, None if within else images_at(val), tmp_path / "out", Listener()).pool
    expected = {"empty": (0, 0), "rejected": (0, 0), "one": (1, 0), "duplicates": (0, 4)}[kind]
    if within and kind == "duplicates":
        expected = (2, 2)
    assert (result.used, result.duplicates) == expected
    assert result.images == len(pool)
    assert len(read_images(tmp_path / "out" / "kept.arrow", images.roots)) == result.used


@pytest.mark.parametrize("how", ["symbolic", "hard", "folder", "list"])
def test_two_names_of_one_file_are_no_pair_and_the_file_is_kept(how: str, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    save(pool / "m" / "file.png", picture(1))
    save(pool / "smaller.png", picture(1)[8:112, 10:150])
    names = {"m/file.png": pool / "m" / "file.png", "smaller.png": pool / "smaller.png"}
    other = pool / "a.png"
    if how == "symbolic":
        other.symlink_to(pool / "m" / "file.png")
    elif how == "hard":
        other.hardlink_to(pool / "m" / "file.png")
    elif how == "folder":
        (pool / "a").symlink_to(pool / "m")
        other = pool / "a" / "file.png"
    else:
        other = pool / "m" / ".." / "m" / "file.png"
    images = images_at({"a.png": other, **names} if how != "hard" else {**names, "a.png": other})
    result = run(images, None, tmp_path / "out", Listener())
    rows = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    gone = {row["image_id"]: (row["reason"], row["detail"]) for row in rows}
    assert gone["a.png"] == ("same_file", "m/file.png")
    assert gone["smaller.png"] == ("duplicate", "m/file.png")
    assert result.num_pairs == 1
    assert result.pool.rejected == {"same_file": 1}


def test_an_image_exchanged_for_one_of_equal_size_is_searched_anew(tmp_path: Path) -> None:
    for side, seed in (("pool", 1), ("val", 2)):
        save(tmp_path / side / "x.bmp", picture(seed))
    given = (tmp_path / "pool", tmp_path / "val", tmp_path / "out", CONFIG)
    assert search_given(*given, SilentMonitor()).num_pairs == 0
    before = (tmp_path / "val" / "x.bmp").stat()
    save(tmp_path / "val" / "x.bmp", picture(1))
    os.utime(tmp_path / "val" / "x.bmp", ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    listener = Listener()
    assert search_given(*given, listener).num_pairs == 1
    assert any("have changed since they were searched" in note for note in listener.notes)


@pytest.mark.parametrize("how", [shutil.copytree, shutil.move])
def test_the_same_images_elsewhere_are_not_searched_again(how: object, tmp_path: Path) -> None:
    for side in ("pool", "val"):
        save(tmp_path / side / "x.png", picture(1))
    out = tmp_path / "out"
    search_given(tmp_path / "pool", tmp_path / "val", out, CONFIG, SilentMonitor())
    stamps = [(out / name).stat().st_mtime_ns for name in ("index/index.json", "canaries.parquet")]
    for side in ("pool", "val"):
        how(tmp_path / side, tmp_path / f"{side}2")  # type: ignore[operator]
    given = (tmp_path / "pool2", tmp_path / "val2", out, CONFIG)
    assert search_given(*given, SilentMonitor()).num_pairs == 1
    names = ("index/index.json", "canaries.parquet")
    assert [(out / name).stat().st_mtime_ns for name in names] == stamps
    save(tmp_path / "val2" / "x.png", picture(2))
    with pytest.raises(UserError, match="other images or settings"):
        search_given(tmp_path / "val2", tmp_path / "pool2", out, CONFIG, SilentMonitor())
