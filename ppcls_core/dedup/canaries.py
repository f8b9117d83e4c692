"""Canaries: altered images of the indexed set, planted to see which of them the search finds.

They are made as they are read and searched by `scan` like any pool image, but they are never among
the pool's images: no count, manifest or pair of the result holds one.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

import cv2
import numpy as np
import pyarrow as pa

from data_catalog.images.columns import Made, Source
from ppcls_core.data.decode import read_image
from ppcls_core.dedup.attacks import ATTACKS
from ppcls_core.dedup.features import Find
from ppcls_core.dedup.match.detect import scan
from ppcls_core.dedup.match.index import ValIndex
from ppcls_core.runtime.randomness import generator

CANARIES = pa.schema(
    [
        ("val_id", pa.string()),
        ("attack", pa.string()),
        ("found", pa.bool_()),  # paired with the image that it was made of
        ("channel", pa.string()),  # of that pair, as are the others; null when not found
        ("score", pa.float32()),
        ("inliers", pa.int32()),
    ]
)
UNIT = "altered copies"  # of progress: users need not know the name
FASTEST = [cv2.IMWRITE_PNG_COMPRESSION, 1]  # lossless: the attack alone alters the picture


def find_canaries(
    find: Find, index: ValIndex, num: int, workers: int, on_image: Callable[[], None]
) -> pa.Table:
    """A row for each canary (CANARIES): whether the search found it, and how; `num` are planted,
    all attacks in turn.

    `find` gives where indexed images are. The same images give the same canaries in every run.
    """
    planted = plan(index.ids, num)
    images = find(name for _, *names in planted for name in names)
    sources = [Made(partial(_altered, images, *canary)) for canary in planted]
    ids = [str(number) for number in range(len(planted))]
    found = scan(sources, ids, index, workers, on_image)
    pairs = {(row["pool_id"], row["val_id"]): row for row in found.pairs.to_pylist()}
    rows = [
        pairs.get((number, val_id), {})
        | {"val_id": val_id, "attack": attack, "found": (number, val_id) in pairs}
        for number, (attack, val_id, _) in zip(ids, planted, strict=True)
    ]
    return pa.Table.from_pylist(rows, CANARIES)  # which leaves out a pair's other columns


def plan(ids: list[str], num: int) -> list[tuple[str, str, str]]:
    """(attack, id of the image to alter, id of another) of each canary: `num`, or all there are
    where the attacks have fewer images to alter. An attack alters an image once at most."""
    planted = []
    for number, attack in enumerate(ATTACKS):
        share = min(len(ids), (num + len(ATTACKS) - 1 - number) // len(ATTACKS))
        rows = generator("canaries", attack).choice(len(ids), share, replace=False) if share else ()
        planted += [(attack, ids[row], ids[row - 1]) for row in rows]
    return planted


def recall(canaries: pa.Table) -> dict[str, list[int]]:
    """attack -> [found, planted], in the order of the suite."""
    attacks = canaries["attack"].to_pylist()
    hits = Counter(a for a, f in zip(attacks, canaries["found"].to_pylist(), strict=True) if f)
    total = Counter(attacks)
    return {attack: [hits[attack], total[attack]] for attack in ATTACKS if total[attack]}


def _altered(images: Mapping[str, Source], attack: str, val_id: str, other: str) -> bytes:
    image, ground = (read_image(images[name]) for name in (val_id, other))
    made = ATTACKS[attack](image, ground, generator("canaries", attack, val_id))
    _, data = cv2.imencode(".png", np.ascontiguousarray(made[..., ::-1]), FASTEST)
    return data.tobytes()
