"""Two finished runs side by side."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from data_catalog.base.config import UserError
from flows.compare import accuracy_rows, compare, cost_rows, count_rows, find_run, settings_rows
from tasks.run.store import RUN, Store
from tests.conftest import TINY
from tests.flows.conftest import run_stages


@pytest.mark.slow
def test_runs_that_differ_by_a_setting(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSLD_HOME", str(store.parent))
    before, _ = run_stages(store)
    after, _ = run_stages(store, ["fix.lr=0.5"])
    a = find_run(Store(store), before["report"].directory.name[:12])
    b = find_run(Store(store), str(TINY))  # its last run
    assert b.record == find_run(Store(store), "tiny").record  # the name of its results
    assert b.record == json.loads(after["report"].path(RUN).read_text())
    key, other = (each["report"].key for each in (after, before))
    alone = next(num for num in range(1, 64) if key[:num] != other[:num])
    for num in range(alone, 65):
        for given in (key[:num], key[:num].upper()):
            assert find_run(Store(store), given).record == b.record
    with pytest.raises(UserError) as caught:
        find_run(Store(store), "nothing")
    listed = {line.split()[0]: line for line in str(caught.value).splitlines()[1:]}
    assert listed.keys() == {key[:12], other[:12]}
    assert listed[key[:12]].endswith(", fix.lr=0.5")
    assert "fix.lr=" in listed[other[:12]]
    monkeypatch.setattr(Store, "default", lambda: Store(store))
    with pytest.raises(UserError, match=rf"(?s)same report.*{key[:12]}.*{other[:12]}"):
        compare("tiny", key[:alone])
    compare(str(TINY))
    shown = capsys.readouterr()
    assert (shown.out + shown.err).index(key[:12]) < (shown.out + shown.err).index(other[:12])
    shutil.copytree(after["report"].directory, store / "report" / "copy")
    with pytest.raises(UserError, match="so begin 2 reports"):
        find_run(Store(store), key)
    assert list(settings_rows(a, a)) == []
    (row,) = settings_rows(a, b)
    assert row[0] == "fix.lr" and row[2] == "0.5"
    assert next(count_rows(a, b))[:2] == ("data: train", f"{before['data'].counts['train']:,}")
    assert {row[3] for row in count_rows(a, b)} == {"the same images", ""}
    same = {row[0] for row in cost_rows(a, b) if row[3]}
    assert "distill" in same and "fix" not in same
    gains = {row[0]: row[3] for row in accuracy_rows(a, b)}
    assert gains["distill"] == gains["teacher"] == "the same result"
    assert gains["fix"] != "the same result"
    assert list(gains)[-1].startswith("exported")


def test_models_with_the_same_answers_differ_by_no_noise(finished: Path) -> None:
    (report,) = Store(finished).results("report")
    run = find_run(Store(finished), str(report.directory))
    record = copy.deepcopy(dict(run.record))
    record["stages"]["distill"]["key"] = "0" * 64  # of other settings, to the same end
    rows = {row[0]: row[3] for row in accuracy_rows(run, replace(run, record=record))}
    assert rows["distill"] == "right and wrong on the same images"
    assert rows["baseline"] == "the same result"


def test_what_is_no_run_is_told(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLD_HOME", str(finished.parent))
    with pytest.raises(UserError, match=r"(?s)'tny'.*nor does a report.*  tiny, "):
        find_run(Store(finished), "tny")
    with pytest.raises(
        UserError, match=r"clothing: this recipe has no finished report.*; the only report:"
    ):
        find_run(Store(finished), "clothing")
    job = tmp_path / "job.yaml"
    job.write_text("model: {name: ResNet18_vd}\n")
    with pytest.raises(UserError, match=r"job.yaml: is no recipe of the pipeline; nor does"):
        find_run(Store(finished), str(job))
    folder = Path(shutil.copytree(run_stages(finished)[0]["report"].directory, tmp_path / "report"))
    assert find_run(Store(finished), str(folder)).name.startswith("tiny, ")
    (folder / RUN).write_text("{")
    with pytest.raises(UserError, match="--only report"):
        find_run(Store(finished), str(folder))
