"""A plan grows with the images, shares the work among hosts, and says what was given or assumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from data_catalog.base.config import UserError
from flows import planning
from tasks.dag import STAGES
from tasks.plan.estimate import Machines, StagePlan, images_read, plan
from tasks.plan.sample import Sample, take_sample
from tasks.recipe import load_recipe
from tasks.stages.label import COMPARED, NUM_COMPARED, compared
from tests.conftest import TINY

HERE = Machines(hosts=1, cores=2, gpus=0, rates={})
SETTINGS = ["distill.teacher=replay", "distill.teacher_batch_norm=running"]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    said: list[str] = []
    recipe = load_recipe(str(TINY), SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.plan.sample.MOST_STEPS", 4)  # enough but for the times
        # Compared as 16 bits are where they are fast.
        patch.setattr("ppcls_core.labels.teacher.fast_precisions", lambda: ("fp32",))
        found = take_sample(recipe, {}, (), tmp_path_factory.mktemp("plan"), said.append)
    assert said == list(STAGES)[1:]
    return found


def rows_of(sample: Sample, machines: Machines = HERE) -> dict[str, StagePlan]:
    rows = plan(sample, machines)
    assert [row.stage for row in rows] == list(STAGES)
    return {row.stage: row for row in rows}


@pytest.mark.slow
def test_a_sample_runs_every_stage_on_some_of_each_set(sample: Sample) -> None:
    assert set(sample.stages) == set(STAGES)
    assert all(0 < sample.taken[name] <= sample.whole[name] for name in sample.whole)
    assert sample.notes == []
    for name, one in sample.stages.items():
        assert one.used.total.wall > 0, name
        assert one.used.memory > 0, name
    labelled = {phase.unit: phase.total for phase in sample.stages["label"].used.phases}
    kept = sample.stages["dedup"].result.counts["kept"]
    assert labelled == {"images": kept, f"{COMPARED}fp32": kept}


@pytest.mark.slow
def test_the_table_fits_a_terminal(
    sample: Sample, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    planning.print_plan(sample, HERE, plan(sample, HERE), dict.fromkeys(STAGES, 1.0))
    title, heads, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(STAGES)]] == list(STAGES)
    assert heads.split()[-2:] == ["last", "run"]
    assert "GPU" not in heads  # nothing stands there
    assert "core seconds" in heads
    assert title == sample.whole_recipe.name


@pytest.mark.parametrize(
    ("hours", "unit"),
    [(0.0, "seconds"), (0.19, "seconds"), (2, "minutes"), (99.9, "minutes"), (830.9, "hours")],
)
def test_the_unit_of_a_plan_says_something_of_each_stage(hours: float, unit: str) -> None:
    assert planning._unit(hours) == (unit, {"seconds": 3600, "minutes": 60, "hours": 1}[unit])


@pytest.mark.slow
def test_ten_times_the_images_take_about_ten_times_as_much(sample: Sample) -> None:
    sample = replace(sample, search_slope=0.0)  # a search in a larger index takes longer
    ten = replace(sample, whole={name: 10 * num for name, num in sample.whole.items()})
    few, many = rows_of(sample), rows_of(ten)
    for name in ("dedup", "label"):
        assert 9 < many[name].disk_in / few[name].disk_in < 11
        assert few[name].core_hours < many[name].core_hours <= 10 * few[name].core_hours
    assert many["export"].core_hours == few["export"].core_hours


@pytest.mark.parametrize("num", [1, 255, 256, 257, 14_000_000])
def test_precisions_are_compared_on_a_bounded_part_of_the_pool(num: int) -> None:
    assert min(num, NUM_COMPARED // 2) <= len(compared(num)) <= NUM_COMPARED


@pytest.mark.slow
def test_the_comparison_of_precisions_is_planned_for_as_many_images_as_it_takes(
    sample: Sample,
) -> None:
    phases = sample.stages["label"].used.phases
    (phase,) = (one for one in phases if one.unit.startswith(COMPARED))
    (images,) = (one for one in phases if one.unit == "images")

    def hours(num: int) -> float:
        return rows_of(replace(sample, whole={**sample.whole, "pool": num}))["label"].core_hours

    labelled = images.each.core * images.total / sample.taken["pool"]  # without duplicates
    few, many = NUM_COMPARED // 2, NUM_COMPARED
    new = (many - few) * (phase.each.core + labelled) / 3600
    assert hours(many) - hours(few) == pytest.approx(new, rel=0.01)
    new = many * labelled / 3600
    assert hours(3 * many) - hours(2 * many) == pytest.approx(new, rel=0.01)


@pytest.mark.slow
def test_hosts_share_shards_and_not_a_training_on_cores(sample: Sample) -> None:
    far = replace(sample, whole={**sample.whole, "pool": 14_000_000})
    one, four = rows_of(far), rows_of(far, replace(HERE, hosts=4))
    for name in ("dedup", "label"):
        assert one[name].seconds / four[name].seconds == pytest.approx(4, rel=0.1)
        assert four[name].core_hours == one[name].core_hours
        assert four[name].network > 0 == one[name].network
    assert four["distill"].seconds == one["distill"].seconds
    assert four["distill"].network == 0


@pytest.mark.slow
def test_a_given_rate_stands_for_the_gpu_unless_the_cores_load_less(sample: Sample) -> None:
    far = replace(sample, whole={**sample.whole, "pool": 14_000_000})
    used = sample.stages["label"].used
    start = used.start.wall + used.end.wall
    rich = Machines(hosts=2, cores=100_000, gpus=4, rates={"label": 2300})
    row = rows_of(far, rich)["label"]
    assert row.gpu_hours == pytest.approx(14e6 / 2300 / 3600)
    assert row.seconds - start == pytest.approx(14e6 / 2300 / 8)
    assert row.basis == "given"
    poor = rows_of(far, replace(rich, cores=1))["label"]
    assert poor.seconds - start == pytest.approx(sample.stages["label"].load * 14e6 / 2)


@pytest.mark.slow
def test_an_evaluation_has_one_gpu(sample: Sample) -> None:
    many = Machines(hosts=3, cores=100_000, gpus=8, rates={"evaluate": 100})
    far = replace(sample, whole={**sample.whole, "val": 50_000})
    row, used = rows_of(far, many)["evaluate"], sample.stages["evaluate"].used
    assert row.gpu_hours == pytest.approx(250_000 / 100 / 3600)
    assert row.seconds - used.start.wall - used.end.wall == pytest.approx(2500)
    assert (row.basis, row.network) == ("given", 0)
    assert row.core_hours > 0  # of loading the images


@pytest.mark.parametrize(
    ("rates", "gpus", "told"),
    [
        ({"lable": 1.0}, 1, "did you mean 'label'"),
        ({"label": 1.0}, 0, "--gpus N"),
        ({"dedup": 1.0}, 1, "runs on cores"),
    ],
)
def test_a_rate_of_nothing_is_refused(rates: dict[str, float], gpus: int, told: str) -> None:
    with pytest.raises(UserError, match=told):
        Machines(1, 1, gpus, rates).check()


def test_images_are_counted_as_often_as_they_are_read() -> None:
    recipe = load_recipe(str(TINY), ["distill.epochs=20", "distill.eval_every=10"])
    sizes = {"train": 30, "teacher": 30, "val": 25, "pool": 50, "merged": 70}
    assert images_read(recipe, sizes, "distill") == {"merged": 20 * 64, "val": 50}
    assert images_read(recipe, sizes, "label") == {"pool": 50}
    assert images_read(recipe, sizes, "views") == {}
    assert images_read(recipe, sizes, "evaluate") == {"val": 125}
    assert next(iter(images_read(recipe, sizes, "dedup"))) == "pool"


def test_data_that_is_not_there_has_to_be_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SSLD_CLOTHING_DIR", raising=False)
    recipe = load_recipe(str(TINY), ["data={labelled: clothing, pool: clothing}"])
    with pytest.raises(UserError, match=r"SSLD_CLOTHING_DIR.*--train N --val N"):
        take_sample(recipe, {"pool": 10}, (), tmp_path, print)
