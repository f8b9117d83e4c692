"""The truth of duplicates that were planted in a pool: a csv file, by ids or by file names."""

# Arrow makes its compute functions at import, unseen by a type checker:
# pyright: reportAttributeAccessIssue=false

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.base.config import UserError, closest
from data_catalog.images.columns import Images

PLANTED = ("pool_image", "val_image", "transform")
PLANTED_SCHEMA = pa.schema([(name, pa.string()) for name in ("pool_id", "val_id", "transform")])


def read_planted(path: Path, pool: Images, val: Images) -> pa.Table:
    """Truth of planted duplicates from a csv file with the columns PLANTED, as PLANTED_SCHEMA.
    Raises UserError: other columns, or an image that is neither an id nor a unique file name
    there."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns, records = reader.fieldnames, list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: planted duplicates cannot be read ({error})") from error
    if set(columns or ()) != set(PLANTED):
        raise UserError(f"{path}: got columns {columns}, expected {','.join(PLANTED)}")
    pool_names, val_names, transforms = ([r[name] or "" for r in records] for name in PLANTED)
    ids = [_ids(path, pool_names, pool, "pool"), _ids(path, val_names, val, "val")]
    return pa.table([*ids, transforms], schema=PLANTED_SCHEMA)


def _ids(path: Path, names: list[str], images: Images, split: str) -> list[str]:
    """The image ids that `names`, ids or unique file names, stand for."""
    column = images.table["image_id"]
    wanted = pa.array(sorted(set(names)), pa.string())
    known = set(column.filter(pc.is_in(column, wanted)).to_pylist())
    file_names = pc.replace_substring_regex(column, r"^.*/", "")
    table = pa.table({"name": file_names, "id": column})
    by_name: dict[str, list[str]] = {}
    for row in table.filter(pc.is_in(file_names, wanted)).to_pylist():
        by_name.setdefault(row["name"], []).append(row["id"])
    found = []
    for number, name in enumerate(names, start=2):
        ids = [name] if name in known else by_name.get(name, [])
        if len(ids) != 1:
            got = f"stands for {len(ids)} images" if ids else "is not there"
            raise UserError(
                f"{path}:{number}: '{name}' {got} in the {split} split; give the path that its "
                f"list gives{closest(name, by_name)}"
            )
        found += ids
    return found
