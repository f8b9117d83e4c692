"""Teachers made from the tiny recipe's own: an ONNX file, files of labels, the mean of several."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from data_catalog.base.config import UserError
from data_catalog.base.files import read_json
from data_catalog.images.columns import read_images
from ppcls_core.data.decode import read_image
from ppcls_core.engine.evaluator import predict_logits
from ppcls_core.inference import onnx
from ppcls_core.inference.export import export
from ppcls_core.inference.exported import Exported
from ppcls_core.inference.sidecar import Sidecar
from ppcls_core.inference.softmax import log_softmax
from ppcls_core.labels.labeller import check_labels
from ppcls_core.labels.store import LabelStore
from ppcls_core.runtime.monitor import SilentMonitor
from tasks.recipe import load_recipe
from tasks.run.stage import Work
from tasks.stages.training import teacher_model
from tests.conftest import TINY
from tests.flows.conftest import run_stages

RUNNING = ["distill.teacher_batch_norm=running", "finetune.teacher_batch_norm=running"]
REPLAY = [*RUNNING, "distill.teacher=replay", "finetune.teacher=replay"]
REST = ["views", "distill", "finetune", "fix", "evaluate", "export", "report"]


class Made:
    """Files of the finished recipe's teacher, and its log-probabilities by image id."""

    def __init__(self, finished: Path, folder: Path) -> None:
        done, _ = run_stages(finished)
        recipe = load_recipe(str(TINY))
        work = Work("label", recipe, folder, "", done, SilentMonitor())
        network = teacher_model(work)
        assert recipe.network is not None
        preprocess, model = recipe.network.preprocess, recipe.network.model
        self.classes = work.images("data/val.arrow").classes
        self.folder, self.model = folder, model.model_dump(mode="json")
        self.weights = done["teacher"].path("model.pdparams")
        export(
            network,
            Sidecar(architecture=model.name, classes=self.classes, preprocess=preprocess),
            folder,
        )
        onnx.export_onnx(network, Exported(folder))
        logits = {}
        for name in ("data/train.arrow", "data/val.arrow", "dedup/kept.arrow"):
            images = work.images(name)
            pixels = np.stack([preprocess(read_image(source)) for source in images.sources()])
            logits |= dict(zip(images.ids, predict_logits(network, pixels), strict=True))
        self.ids = sorted(logits, key=str.encode)
        self.logprobs = log_softmax(np.stack([logits[i] for i in self.ids])).astype(np.float32)
        self.val = set(work.images("data/val.arrow").ids)

    def table(self, probabilities: bool = False, without: set[str] = frozenset()) -> pa.Table:  # type: ignore[assignment]
        """A column a class, last class first."""
        values = np.exp(self.logprobs) if probabilities else self.logprobs
        columns = {name: values[:, c] for c, name in reversed(list(enumerate(self.classes)))}
        keep = pa.array([image_id not in without for image_id in self.ids])
        return pa.table({"image_id": self.ids, **columns}).filter(keep)

    def write(self, name: str, table: pa.Table) -> dict[str, str]:
        """A recipe's teacher with the labels `table`."""
        path = self.folder / name
        if path.suffix == ".csv":
            pa.csv.write_csv(table, path)
        else:
            pq.write_table(table, path)
        return {"labels": str(path)}


@pytest.fixture(scope="module")
def made(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(finished, tmp_path_factory.mktemp("made"))


def of(teacher: object, *more: str) -> list[str]:
    return [*REPLAY, f"teacher={json.dumps(teacher)}", *more]


def stored(made: Made, store: Path, settings: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(labels in the pool's store, those of the teacher itself) of the same images."""
    done, _ = run_stages(store, settings, until="label")
    images = read_images(done["dedup"].path("kept.arrow"), {})
    got = LabelStore.open(done["label"].directory).logprobs(list(images.ids))
    return got, made.logprobs[np.searchsorted(made.ids, list(images.ids))]


@pytest.mark.slow
def test_an_onnx_teacher_labels_as_the_network_and_runs_to_the_end(made, store):
    settings = of({"onnx": str(made.folder / onnx.ONNX)}, "label.views=2")
    got, want = stored(made, store, settings)
    np.testing.assert_allclose(got, want, atol=2e-3)
    done, ran = run_stages(store, settings)
    assert ran == ["select", *REST]
    assert "model.onnx" in done["report"].path("model_card.md").read_text()
    top1 = {r["label"]: r["top1"] for r in read_json(done["evaluate"].path("accuracy.json"))}
    before, _ = run_stages(store)
    assert top1["teacher"] == pytest.approx(before["evaluate"].metrics["teacher"], abs=0.08)
    for stage in ("label", "views"):
        assert check_labels(done[stage].directory, 9, 1).agreement.is_close
    assert run_stages(store, settings)[1] == []


@pytest.mark.slow
def test_a_label_file_trains_to_the_end_and_knows_part_of_val(made, store):
    some = set(sorted(made.val)[:7])
    settings = of(made.write("some.parquet", made.table(without=some)))
    got, want = stored(made, store, settings)
    np.testing.assert_allclose(got, want, atol=1e-4)
    done, ran = run_stages(store, settings)
    assert ran[-len(REST) :] == REST
    (row,) = [
        r for r in read_json(done["evaluate"].path("accuracy.json")) if r["label"] == "teacher"
    ]
    assert row["num_images"] == len(made.val) - 7
    assert row["rejected"] == {"unlabelled": 7}
    assert (row["resolution"], row["parameters"]) == (None, None)
    assert done["teacher"].counts["rejected: unlabelled"] == 7
    assert check_labels(done["views"].directory, 9, 1).largest < 1e-4


def test_without_a_label_of_val_the_teacher_has_no_row(made, store):
    settings = of(made.write("noval.parquet", made.table(without=made.val)))
    done, _ = run_stages(store, settings)
    labels = [row["label"] for row in read_json(done["evaluate"].path("accuracy.json"))]
    assert labels == ["baseline", "distill", "finetune", "fix"]


def test_probabilities_in_a_csv_are_log_probabilities(made, store):
    teacher = made.write("all.csv", made.table(probabilities=True)) | {"outputs": "probabilities"}
    got, want = stored(made, store, of(teacher))
    np.testing.assert_allclose(got, log_softmax(np.maximum(want, np.log(1e-7))), atol=1e-3)


def test_images_without_a_label_are_rejected(made, store):
    done, _ = run_stages(store)
    pool = sorted(read_images(done["dedup"].path("kept.arrow"), {}).ids)
    settings = of(made.write("few.parquet", made.table(without=set(pool[:5]))))
    done, _ = run_stages(store, settings, until="select")
    rejected = pq.read_table(done["label"].path("rejected.parquet")).to_pylist()
    assert [(r["image_id"], r["reason"]) for r in rejected] == [(i, "unlabelled") for i in pool[:5]]
    counts = done["label"].counts
    assert counts["rejected: unlabelled"] == 5
    assert counts["in"] == counts["out"] + 5
    nothing = of(made.write("nothing.parquet", made.table(without=set(pool))))
    with pytest.raises(UserError, match=r"has none of the .* images .* must be written like this"):
        run_stages(store, nothing, until="label")


def several(made: Made) -> list[str]:
    """Settings with two teachers: the recipe's own, of weight 3, and one that knows nothing."""
    table = made.table()
    flat = {name: np.zeros(len(table), np.float32) for name in made.classes}
    uniform = made.write("flat.parquet", pa.table({"image_id": made.ids, **flat}))
    network = {"model": made.model, "weights": str(made.weights), "image_size": 32}
    return of([network | {"weight": 3}, uniform])


@pytest.mark.slow
def test_several_teach_the_weighted_mean_of_their_probabilities(made, store):
    got, want = stored(made, store, several(made))
    mean = np.log(0.75 * np.exp(want) + 0.25 / len(made.classes))
    np.testing.assert_allclose(got, mean, atol=2e-3)


@pytest.mark.slow
def test_several_teach_to_the_end(made, store):
    done, _ = run_stages(store, several(made))
    assert "flat.parquet (weight 1)" in done["report"].path("model_card.md").read_text()


def test_a_file_that_changed_is_another_teacher(made, store):
    settings = of(made.write("changing.parquet", made.table()))
    run_stages(store, settings, until="label")
    assert run_stages(store, settings, until="label")[1] == []
    moved = of(made.write("moved.parquet", made.table()))
    assert run_stages(store, moved, until="label")[1] == []
    made.write("changing.parquet", made.table(without={made.ids[0]}))
    assert run_stages(store, settings, until="label")[1] == ["teacher", "label"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.rename_columns(["image_id", "ha", *t.column_names[2:]]),
            "lacks '.*'; only it has 'ha'",
        ),
        (lambda t: t.drop_columns(t.column_names[-1:]), "9 classes are not the 10"),
        (lambda t: t.take([0, 2, 1]), "row 3 .*sort the rows"),
        (lambda t: t.take([0, 1, 1]), "row 3 .*keep one"),
    ],
)
def test_what_a_label_file_has_wrong_is_said(made, store, change, message):
    teacher = made.write("wrong.parquet", change(made.table()))
    with pytest.raises(UserError, match=message):
        run_stages(store, of(teacher), until="teacher")


@pytest.mark.parametrize(
    ("teacher", "more", "message"),
    [
        ({"labels": "few.yaml"}, ["label.views=2"], "`label.views`.*one row an image.*leave"),
        (
            {"labels": "few.yaml"},
            ["distill.teacher=online"],
            r"online.*`distill: \{teacher: replay",
        ),
        (
            {"onnx": "few.yaml"},
            ["distill.teacher=online"],
            r"running\}`, to train from its stored outputs",
        ),
        ({"onnx": "few.yaml"}, ["label.views=1"], r"teacher.preprocess: is required"),
        ({"onnx": "none.onnx"}, ["label.views=1"], r"teacher.onnx: .*none.onnx: no such file"),
        (
            [{"model": {"name": "ResNet18_vd"}}],
            ["label.views=1"],
            r"teacher\.0: give `weights`.*\)$",
        ),
        ([], ["label.views=1"], "`teacher`: got an empty list"),
        ([{"labels": "none.csv"}], [], r"teacher.0.labels: .*no such file"),
        ({"onnx": "x", "layuot": "NHWC"}, [], "'teacher.layuot'; did you mean 'teacher.layout'"),
    ],
)
def test_what_cannot_teach_is_refused_with_the_recipe(teacher, more, message):
    with pytest.raises(UserError, match=message):
        load_recipe(str(TINY), of(teacher, *more))
