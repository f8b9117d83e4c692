"""Canaries: which images are altered how, and that what is found is counted."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_catalog.images.columns import Source
from ppcls_core.data.decode import decode
from ppcls_core.dedup.attacks import ATTACKS
from ppcls_core.dedup.canaries import CANARIES, _altered, find_canaries, plan, recall
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.match.index import build_index, load_index
from ppcls_core.runtime.monitor import SilentMonitor
from tests.ppcls_core.dedup.test_dedup_command import picture, save
from tests.support.images import images_at

IDS = [f"v{number}" for number in range(50)]


@pytest.mark.parametrize("num", [0, 1, len(ATTACKS), 200, 10_000])
def test_attacks_take_turns_and_alter_an_image_once(num: int) -> None:
    planted = plan(IDS, num)
    assert len(planted) == min(num, len(ATTACKS) * len(IDS))
    assert len({(attack, val_id) for attack, val_id, _ in planted}) == len(planted)
    counts = Counter(attack for attack, _, _ in planted)
    assert max(counts.values(), default=0) - min(counts[a] for a in ATTACKS) <= 1
    assert all(val_id != other for _, val_id, other in planted)
    assert plan(IDS, num) == planted


def test_images_are_drawn_from_all_over_the_set() -> None:
    assert len({val_id for _, val_id, _ in plan(IDS, 200)}) > 40
    assert plan([], 200) == []


def test_what_is_found_is_counted(tmp_path: Path) -> None:
    config, num = DedupConfig(num_features=120, min_side=96), len(ATTACKS)
    images: dict[str, Path] = {}
    for seed in range(3):
        save(path := tmp_path / f"{seed}.png", picture(seed))
        images[path.name] = path
    build_index(images_at(images), config, tmp_path / "index", 2, SilentMonitor())
    seen: list[int] = []
    index = load_index(tmp_path / "index")
    canaries = find_canaries(lambda ids: images, index, num, 2, lambda: seen.append(1))
    assert canaries.schema == CANARIES
    assert len(canaries) == len(seen) == num
    assert canaries == find_canaries(lambda ids: images, index, num, 1, lambda: None)
    scores = recall(canaries)
    assert list(scores) == list(ATTACKS)
    assert all(planted == 1 for _, planted in scores.values())
    assert scores["jpeg 30"] == scores["rotate 90"] == [1, 1]
    for row in canaries.to_pylist():
        assert (row["channel"] is not None) == row["found"]
    (tmp_path / "0.png").unlink()  # gone since it was indexed: not found
    some = recall(find_canaries(lambda ids: images, index, num, 2, lambda: None))
    assert sum(found for found, _ in some.values()) < sum(found for found, _ in scores.values())


@pytest.mark.parametrize("shape", [(16, 16), (16, 900), (700, 17), (33, 41)])
def test_every_attack_takes_every_shape(tmp_path: Path, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for name, size in (("a", shape), ("b", (40, 20))):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    images: dict[str, Source] = {name: tmp_path / f"{name}.png" for name in "ab"}
    for attack in ATTACKS:
        data = _altered(images, attack, "a", "b")
        assert min(np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), 1)).shape[:2]) > 0
    assert decode(_altered(images, "mirror", "a", "b")).shape == (*shape, 3)
