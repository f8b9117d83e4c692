"""Decisions of a person on pairs of images, which every search of the same contents honours.

They lie in a file to which each is appended as it is made: a JSON object a line (`Decision`). The
last of a pair counts, and taking one back is a line too, so that nothing is ever lost. A pair is
known by the contents of its two files, in either order: ids and folders may differ.
"""

# Arrow makes its compute functions at import, unseen by a type checker:
# pyright: reportAttributeAccessIssue=false

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from data_catalog.base.config import Config, UserError, parse
from data_catalog.base.files import digest_of
from data_catalog.images.columns import Images
from ppcls_core.dedup.match.pairs import PAIRS

REVIEWED = "reviewed.jsonl"  # the file, in the folder of a search
Verdict = Literal["accepted", "refused"]
_Key = tuple[str, str]  # sha256 of both files, the lesser first


class Decision(Config):
    """A person's verdict on a pair: `accepted`, both show the same picture; `refused`, they do not;
    None, an earlier one is taken back. The ids are for the reader: the contents decide."""

    pool_id: str
    val_id: str
    pool_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    val_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    verdict: Verdict | None

    @classmethod
    def on(cls, row: Mapping[str, Any], verdict: Verdict | None) -> "Decision":
        """That on the pair of `row` (FOUND's columns)."""
        return cls(**{name: row[name] for name in cls.model_fields if name in row}, verdict=verdict)

    @property
    def key(self) -> _Key:
        """The pair: two decisions on it have it in common."""
        first, second = sorted((self.pool_sha256, self.val_sha256))
        return first, second


@dataclass(frozen=True)
class AfterReview:
    """Words for a person who judges pairs: what becomes of the searched picture of a pair that
    shows the same, and what to do `then`, once all are judged (the end of a sentence)."""

    if_same: str
    then: str


@dataclass(frozen=True)
class Decisions:
    """The last decision on each pair that has one, by `Decision.key`."""

    by_pair: dict[_Key, Decision] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.by_pair)

    @property
    def digest(self) -> str:
        """Identity of what is decided, whenever and in which order."""
        return digest_of([[*key, each.verdict] for key, each in sorted(self.by_pair.items())])

    def between(self, pool: Images, val: Images) -> "Decisions":
        """Those on an image of `pool` and one of `val`."""
        one, other = self._decided_in(pool), self._decided_in(val)
        kept = {
            key: decision
            for key, decision in self.by_pair.items()
            if any(a[:32] in one and b[:32] in other for a, b in (key, key[::-1]))
        }
        return Decisions(kept)

    def _decided_in(self, images: Images) -> set[str]:
        """The contents (hex), as in the columns of a set, of its images that are decided on."""
        halves = {half for key in self.by_pair for half in key}
        wanted = pa.array([bytes.fromhex(half)[:16] for half in halves], pa.binary(16))
        content = images.table["content"]
        return {each.hex() for each in content.filter(pc.is_in(content, wanted)).to_pylist()}

    def of(self, pool_sha256: str, val_sha256: str) -> Verdict | None:
        """The verdict on the pair of two files (sha256, hex), if there is one."""
        first, second = sorted((pool_sha256, val_sha256))
        found = self.by_pair.get((first, second))
        return found and found.verdict

    def apply(self, pairs: pa.Table, refused: pa.Table) -> tuple[pa.Table, pa.Table]:
        """(pairs, refused pairs) as the person has them (PAIRS), of those as the rule has them
        (FOUND). Those that change sides come last."""
        pairs, refused = (_with_reviewed(t, self._among(t, *self._keys)) for t in (pairs, refused))
        accepted, overruled = self._keys
        out, come = self._among(pairs, overruled), self._among(refused, accepted)
        stay = [pairs.filter(pc.invert(out)), refused.filter(pc.invert(come))]
        moved = [refused.filter(come), pairs.filter(out)]
        first, second = (pa.concat_tables(both) for both in zip(stay, moved, strict=True))
        return first, second

    def met(self, *tables: pa.Table) -> set[_Key]:
        """Keys of the decisions on pairs that are in one of the `tables` (FOUND's columns)."""
        parts = (_texts(t).filter(self._among(t, *self._keys)).to_pylist() for t in tables)
        halves = (sorted((text[:64], text[64:])) for part in parts for text in part)
        return {(first, second) for first, second in halves}

    @cached_property
    def _keys(self) -> tuple[pa.Array, pa.Array]:
        """Both orders of the pairs that are accepted, and of those that are refused."""
        accepted, refused = (
            [t for k, d in self.by_pair.items() if d.verdict == verdict for t in _both_orders(k)]
            for verdict in ("accepted", "refused")
        )
        return pa.array(accepted, pa.string()), pa.array(refused, pa.string())

    @staticmethod
    def _among(table: pa.Table, *keys: pa.Array) -> pa.ChunkedArray:
        return pc.is_in(_texts(table), pa.concat_arrays(keys))


def _texts(table: pa.Table) -> pa.ChunkedArray:
    """The contents of each pair as one text."""
    return pc.binary_join_element_wise(table["pool_sha256"], table["val_sha256"], "")


def _both_orders(key: _Key) -> tuple[str, str]:
    return key[0] + key[1], key[1] + key[0]


def _with_reviewed(table: pa.Table, reviewed: pa.ChunkedArray) -> pa.Table:
    return table.append_column(PAIRS.field("reviewed"), reviewed)


def read_decisions(*paths: Path | None) -> Decisions:
    """The decisions in these files, the last on a pair; of None there are none. A last line without
    its end, which a kill may leave, is none. Raises UserError: a line is no decision, or a file
    cannot be read."""
    found: dict[_Key, Decision] = {}
    for path in filter(None, paths):
        _read(path, found)
    return Decisions(found)


def _read(path: Path, found: dict[_Key, Decision]) -> None:
    """Put the decisions in the file `path` over those that are `found`."""
    try:
        whole, _, _ = path.read_bytes().rpartition(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); correct the path") from error
    for number, line in enumerate(whole.splitlines(), 1):
        where = f"{path}:{number}"
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            raise UserError(f"{where}: got no JSON object, expected a decision a line, as written")
        decision = parse(Decision, data, where)
        found.pop(decision.key, None)
        if decision.verdict:
            found[decision.key] = decision


def honoured(folder: Path) -> list[Decision]:
    """The decisions that the result in a search's folder follows."""
    found: list[Decision] = []
    files: dict[str, Verdict] = {"pairs": "accepted", "refused": "refused"}
    for name, verdict in files.items():
        rows = pq.read_table(folder / f"{name}.parquet", filters=pc.field("reviewed")).to_pylist()
        for row in rows:
            found.append(Decision.on(row, verdict))
    return found


def append_decision(path: Path, decision: Decision) -> None:
    """Add `decision` to the file `path`; when this returns it is on the disk.

    One process at a time may write. What a killed one left of a line is removed.
    """
    line = json.dumps(decision.model_dump(mode="json"), ensure_ascii=False) + "\n"
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        file.truncate(_whole_lines(file.fileno(), end))
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def _whole_lines(descriptor: int, end: int) -> int:
    """How many of the first `end` bytes of a file are whole lines."""
    start = max(0, end - (1 << 16))
    tail = os.pread(descriptor, end - start, start)
    return start + tail.rfind(b"\n") + 1 if b"\n" in tail or not start else end
