"""Teacher logits in Parquet: one row an image, the teacher's fingerprint in the file's metadata.

Columns: `image_id` (string) and `logits` (fixed-size list of float16 [C]). Logits, not
probabilities: float16 probabilities underflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.config import UserError

FLOAT16_MAX = float(np.finfo(np.float16).max)


def label_table(ids: Sequence[str], logits: np.ndarray, fingerprint: str) -> pa.Table:
    """The table of a shard: float32 [N, C] `logits` of the images `ids`, made by `fingerprint`.

    Raises:
        UserError: a logit is not a number.
    """
    bad = np.flatnonzero(np.isnan(logits).any(1))
    if len(bad):
        raise UserError(
            f"the teacher gives NaN for {len(bad):,} of {len(ids):,} images, the first: "
            f"{ids[bad[0]]}; its weights are damaged or not its own: check teacher.weights"
        )
    half = np.clip(logits, -FLOAT16_MAX, FLOAT16_MAX).astype(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(half.reshape(-1)), logits.shape[1])
    table = pa.table({"image_id": pa.array(list(ids), pa.string()), "logits": column})
    return table.replace_schema_metadata({b"teacher": fingerprint.encode()})


def read_labels(path: Path, fingerprint: str) -> tuple[list[str], np.ndarray]:
    """(ids, float32 logits [N, C]) of a shard.

    Raises:
        UserError: the shard was made by another teacher or preprocessing.
    """
    table = pq.read_table(path)
    made_by = (table.schema.metadata or {}).get(b"teacher", b"").decode()
    if made_by != fingerprint:
        raise UserError(
            f"{path}: labelled by teacher {made_by[:12] or 'unknown'}, expected "
            f"{fingerprint[:12]}; run the label stage again"
        )
    column = table["logits"].combine_chunks()
    num_classes = column.type.list_size
    logits = column.flatten().to_numpy().reshape(-1, num_classes).astype(np.float32)
    return table["image_id"].to_pylist(), logits
