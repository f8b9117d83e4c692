from pathlib import Path

import pytest

from data_catalog.base.config import UserError
from data_catalog.images.columns import loose_images
from data_catalog.sources import PLANTED_SCHEMA, read_planted


def manifest(*ids):
    return loose_images(Path(), ids)


POOL = manifest("p/x.jpg", "p/y.jpg", "q/y.jpg")
VAL = manifest("v/1.jpg", "v/2.jpg")


def planted(folder, text):
    (folder / "p.csv").write_text(text)
    return read_planted(folder / "p.csv", POOL, VAL)


def test_planted_names_are_ids_or_unique_file_names(tmp_path):
    table = planted(
        tmp_path, "pool_image,val_image,transform\nx.jpg,1.jpg,crop\nq/y.jpg,v/2.jpg,blur\n"
    )
    assert table.schema == PLANTED_SCHEMA
    assert table.to_pylist() == [
        {"pool_id": "p/x.jpg", "val_id": "v/1.jpg", "transform": "crop"},
        {"pool_id": "q/y.jpg", "val_id": "v/2.jpg", "transform": "blur"},
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pool,val\nx,y\n", r"got columns \['pool', 'val'\], expected pool_image,val_image"),
        ("", "got columns None"),
        ("pool_image,val_image,transform\ny.jpg,1.jpg,a\n", "p.csv:2: 'y.jpg' stands for 2 images"),
        ("pool_image,val_image,transform\nx.jpg,3.jpg,a\n", "p.csv:2: '3.jpg' is not there"),
        ("pool_image,val_image,transform\nx.jpg\n", "p.csv:2: '' is not there"),
    ],
)
def test_bad_planted(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        planted(tmp_path, text)
