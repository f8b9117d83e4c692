"""A person's decisions: kept whatever happens, and honoured by every search of the contents."""

import json
import shutil
from pathlib import Path

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.base.config import UserError
from data_catalog.base.files import sha256_file
from ppcls_core.cli import dedup as command
from ppcls_core.cli.dedup import _reopened
from ppcls_core.dedup.decisions import (
    REVIEWED,
    Decision,
    Decisions,
    Verdict,
    append_decision,
    read_decisions,
)
from ppcls_core.dedup.match.pairs import FOUND, PAIRS
from ppcls_core.dedup.result.removal import summary, verify_removal
from tests.ppcls_core.dedup.test_dedup_command import (  # noqa: F401
    column,
    picture,
    run,
    save,
    search,
    sets,
)

UNIT = [1.0, 0, 0, 0, 1, 0, 0, 0, 1]


def sha(name: str) -> str:
    return name.encode().hex().rjust(64, "0")


def decision(pool: str, val: str, verdict: Verdict | None) -> Decision:
    return Decision(
        pool_id=pool, val_id=val, pool_sha256=sha(pool), val_sha256=sha(val), verdict=verdict
    )


def found(*pairs: tuple[str, str, float]) -> pa.Table:
    rows = [
        {
            **{"pool_id": pool, "val_id": val, "channel": "sift", "score": 0.6, "inliers": 9},
            **{"pool_sha256": sha(pool), "val_sha256": sha(val)},
            **{"margin": margin, "transform": UNIT},
        }
        for pool, val, margin in pairs
    ]
    return pa.Table.from_pylist(rows, FOUND)


def names(table: pa.Table) -> list[tuple[str, str, bool]]:
    return [(row["pool_id"], row["val_id"], row["reviewed"]) for row in table.to_pylist()]


def test_the_last_decision_on_a_pair_counts_in_either_order(tmp_path: Path) -> None:
    path = tmp_path / REVIEWED
    for each in (
        decision("a", "b", "accepted"),
        decision("c", "d", "accepted"),
        decision("b", "a", "refused"),
        decision("c", "d", None),
    ):
        append_decision(path, each)
    decisions = read_decisions(path)
    assert len(decisions) == 1
    assert decisions.of(sha("a"), sha("b")) == decisions.of(sha("b"), sha("a")) == "refused"
    assert decisions.of(sha("c"), sha("d")) is None


@settings(max_examples=25)
@given(cut=st.integers(0, 700))
def test_a_line_cut_short_by_a_kill_loses_that_line_alone(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / REVIEWED
    for name in "abc":
        append_decision(path, decision(name, "v", "accepted"))
    data = path.read_bytes()
    path.write_bytes(data[: max(0, len(data) - cut)])
    whole = path.read_bytes().count(b"\n")
    assert len(read_decisions(path)) == whole
    append_decision(path, decision("z", "v", "refused"))
    assert len(read_decisions(path)) == whole + 1
    assert path.read_bytes().endswith(b"\n")


def test_pairs_change_sides_as_decided() -> None:
    pairs = found(("a", "v", 0.1), ("b", "v", 0.2), ("c", "v", 0.3))
    refused = found(("d", "v", -0.1), ("e", "v", -0.05))
    decisions = Decisions(
        {
            each.key: each
            for each in (
                decision("a", "v", "refused"),
                decision("b", "v", "accepted"),
                decision("d", "v", "accepted"),
                decision("gone", "v", "refused"),
            )
        }
    )
    accepted, rest = decisions.apply(pairs, refused)
    assert accepted.schema == rest.schema == PAIRS
    assert names(accepted) == [("b", "v", True), ("c", "v", False), ("d", "v", True)]
    assert names(rest) == [("e", "v", False), ("a", "v", True)]
    assert len(decisions.met(pairs, refused)) == 3
    untouched, _ = Decisions().apply(pairs, refused)
    assert names(untouched) == [(name, "v", False) for name in "abc"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[1]", "expected a decision a line"),
        ("{", "expected a decision a line"),
        ("[" * 100_000, "expected a decision a line"),
        ('{"verdict": "maybe"}', "verdict"),
    ],
)
def test_a_file_of_something_else_is_told(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "file").write_text(line + "\n")
    with pytest.raises(UserError, match=words):
        read_decisions(tmp_path / "file")
    with pytest.raises(UserError, match="correct the path"):
        read_decisions(tmp_path / "none")


def decide(out: Path, pool_id: str, verdict: Verdict | None) -> None:
    tables = [pq.read_table(out / f"{name}.parquet") for name in ("pairs", "refused")]
    row = next(r for t in tables for r in t.to_pylist() if r["pool_id"] == pool_id)
    append_decision(out / REVIEWED, Decision.on(row, verdict))


def test_a_search_honours_what_was_decided(sets: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out"
    before = run(sets / "pool", sets / "val", out)
    decide(out, "a/crop.jpg", "refused")
    decide(out, "a/mirror.jpg", "accepted")
    append_decision(out / REVIEWED, decision("x", "y", "accepted"))
    two = [sets / "pool" / "a" / "crop.jpg", sets / "val" / "v3.png"]
    here = dict(zip(("pool_sha256", "val_sha256"), map(sha256_file, two), strict=True))
    never = Decision(pool_id="x", val_id="y", verdict="refused", **here)  # no pair at all
    append_decision(out / REVIEWED, never)
    result = search(sets / "pool", sets / "val", out)
    assert result.pool_counts == before | {"kept": 4, "duplicates": 2, "pairs": 2}
    assert result.decision_counts == {"accepted": 1, "refused": 1, "not found": 1}
    assert "a/crop.jpg" in (out / "kept.txt").read_text().splitlines()
    listed = json.loads((out / "removed.json").read_text())
    reviewed = {e["image_id"]: e["pairs"][0]["reviewed"] for e in listed["removed"]}
    assert reviewed == {"a/mirror.jpg": True, "same.png": False}
    assert [pair["pool_id"] for pair in listed["reviewed"]["refused"]] == ["a/crop.jpg"]
    verified, notes = verify_removal(out / "removed.json", sets / "pool", sets / "val")
    counts = {verdict: count for verdict, count in summary(verified).items() if count}
    assert (counts, notes) == ({"agrees": 1, "reviewed": 1}, [])
    assert set(column(out / "refused.parquet", "pool_id")) >= {"a/crop.jpg"}
    named = search(sets / "pool", sets / "val", tmp_path / "named", reviewed=out / REVIEWED)
    assert named.pool_counts == result.pool_counts
    assert search(sets / "pool", sets / "val", tmp_path / "named").pool_counts == named.pool_counts
    decide(out, "a/crop.jpg", None)
    assert search(sets / "pool", sets / "val", out).pool_counts == before


def test_what_a_person_accepts_is_removed_and_verified(sets: Path, tmp_path: Path) -> None:  # noqa: F811
    pool, out = tmp_path / "pool", tmp_path / "out"
    lettered = cv2.putText(picture(0), "SALE", (40, 70), 0, 0.8, (255, 255, 255), 2)
    save(pool / "lettered.png", lettered)
    never = {"hash_agreement": 1.0, "min_inliers": 5000}  # the thumbnails would have to be equal
    assert search(pool, sets / "val", out, **never).pool_counts["kept"] == 1
    decide(out, "lettered.png", "accepted")
    assert search(pool, sets / "val", out, **never).pool_counts["duplicates"] == 1
    verified, _ = verify_removal(out / "removed.json", pool, sets / "val")
    assert [pair.verdict for pair in verified] == ["reviewed"]


def test_within_a_pool_the_image_of_a_refused_pair_stays(sets: Path, tmp_path: Path) -> None:  # noqa: F811
    pool, out = tmp_path / "pool", tmp_path / "out"
    shutil.copytree(sets / "val", pool)
    shutil.copy(sets / "pool" / "a" / "crop.jpg", pool)
    assert run(pool, None, out)["duplicates"] == 1
    decide(out, "crop.jpg", "refused")
    assert run(pool, None, out)["duplicates"] == 0


def test_a_review_of_nothing_is_told_and_ends(
    sets: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pool, out = tmp_path / "pool", tmp_path / "out"
    save(pool / "other.png", picture(77))
    run(pool, sets / "val", out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    monkeypatch.setattr(command, "resolve_name", None)  # which finds the page
    command.dedup(review=out)
    told = f"{out}: no pair was found, nor nearly found: there is nothing to judge\n"
    assert capsys.readouterr().out == told
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_a_review_needs_a_finished_search_of_images_as_they_are(
    sets: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    pool, out = tmp_path / "pool", tmp_path / "out"
    shutil.copytree(sets / "pool" / "a", pool)
    run(pool, sets / "val", out)
    assert _reopened(out)[1] == [pool, sets / "val"]
    save(pool / "crop.jpg", picture(77))
    with pytest.raises(UserError, match="its images have changed since they were searched"):
        _reopened(out)
    shutil.rmtree(pool)
    with pytest.raises(UserError, match="are not there any more; search them again, then review"):
        _reopened(out)
    (out / "removed.json").unlink()
    with pytest.raises(UserError, match="holds no finished search"):
        _reopened(out)
