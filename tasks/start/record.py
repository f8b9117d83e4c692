"""init.json, the record of `ssld init` beside the data set that it wrote: the folder it is of, the
files written, and what was left out of their lists and why."""

from pathlib import Path
from typing import Any

from data_catalog.base.files import read_json
from data_catalog.recipes import INIT


def left_out_by_init(data: str) -> list[dict[str, Any]]:
    """The files that `ssld init` left out of the data set `data`: `reason`, `number` and `names`
    (of the first) a row; none where that is no YAML file which it wrote."""
    is_file = data.endswith((".yaml", ".yml"))  # else a name of the catalog
    record = read_json(Path(data).with_name(INIT)) if is_file else None
    return record.get("left_out", []) if isinstance(record, dict) else []
