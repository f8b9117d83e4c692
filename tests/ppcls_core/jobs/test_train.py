"""`ppcls train` and `eval`: jobs on small images, stopped, resumed and tried out."""

from __future__ import annotations

import ast
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import cv2
import numpy as np
import paddle
import pytest

from data_catalog.base.config import UserError
from ppcls_core.jobs.job import Job, load_job
from ppcls_core.jobs.train import evaluate_job, images_of, train, try_out
from ppcls_core.models.registry import build_model
from ppcls_core.models.weights.files import find_weights, load_state, save_state
from ppcls_core.models.weights.state import state_of
from ppcls_core.runtime.monitor import Interrupted

PROJECT = Path(__file__).resolve().parents[3]
OWN = """
model: {name: ResNet18_vd, spec: {depths: [1, 1, 1, 1], width: 4}}
num_classes: 3
train: {list: train.txt, root: images}
val: {list: val.txt, root: images}
preprocess: {size: 32}
training: {epochs: 2, batch_size: 4, image_size: 32, lr: 0.05, eval_every: 1}
log_every: 1
workers: 1
topk: 2
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    rng, lines = np.random.default_rng(0), []
    for row in range(12):
        picture = np.full((40, 40, 3), 80 * (row % 3), np.uint8)
        picture += rng.integers(0, 60, picture.shape, np.uint8)
        cv2.imwrite(f"images/{row}.png", picture)
        lines.append(f"{row}.png {row % 3}\n")
    Path("train.txt").write_text("".join(lines))
    Path("val.txt").write_text("".join(lines[:6]))
    Path("job.yaml").write_text(OWN)
    return tmp_path


def load(*settings: str) -> Job:
    return load_job(Path("job.yaml"), list(settings))


def test_a_training_is_logged_saved_and_evaluated(folder):
    lines: list[str] = []
    made = train(load(), lines.append)
    assert made == Path("output/ResNet18_vd")
    assert lines[0].startswith("epoch:0 train step:0 loss:")
    assert re.search(r" lr:0\.000000 elapse:\d+\.\d{3}$", lines[0])
    assert not lines[0].endswith("0.000")
    assert sum(line.startswith("valid top1:") for line in lines) == 2
    history = json.loads((made / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2]
    accuracy = evaluate_job(load(f"weights={made}/last"), lines.append)
    assert accuracy.top1 == pytest.approx(history[-1]["top1"])
    assert accuracy.num_images == 6


def test_weights_of_epochs_are_kept_where_paddleclas_keeps_them(folder):
    made = train(load("save_every=2", "training.epochs=3"), lambda line: None)
    kept = sorted(path.relative_to(made).as_posix() for path in made.rglob("ppcls.pdparams"))
    assert kept == ["0/ppcls.pdparams", "2/ppcls.pdparams"]
    last = load_state(made / "last")
    assert all((load_state(made / "2/ppcls")[name] == last[name]).all() for name in last)
    # Where weights are copied to makes no other training.
    lines: list[str] = []
    train(load("save_every=1", "training.epochs=3"), lines.append)
    assert lines == [f"trained already: {made}"]


def test_as_many_of_the_highest_count_as_topk_says(folder):
    lines: list[str] = []
    made = train(load("topk=2"), lines.append)
    steps = [line for line in lines if " train step:" in line]
    assert all(" top2:" in line and " top5:" not in line for line in steps)
    assert any(line.startswith("valid top1:") and " top2:" in line for line in lines)
    table = folder / "classes.csv"
    found = evaluate_job(load(f"weights={made}", "preprocess.size=32"), lines.append, table)
    assert lines[-1] == f"top1:{found.top1:.4f} top2:{found.topk:.4f} images:6"
    assert table.read_text().startswith("class,name,num_images,top1,top2\n")
    evaluate_job(load(f"weights={made}", "topk=1"), lines.append, table)
    assert lines[-1] == f"top1:{found.top1:.4f} images:6"
    assert table.read_text().startswith("class,name,num_images,top1\n0,,2,")
    train(load("topk=1", "output=one", "training.epochs=1"), lines.append)
    assert all(line.count("top1:") < 2 for line in lines)


def test_a_share_that_is_always_1_is_left_out(folder):
    lines, table = list[str](), folder / "classes.csv"
    try_out(load("topk=3"), lines.append)
    made = train(load("topk=3", "training.epochs=1"), lines.append)
    found = evaluate_job(load("topk=3", f"weights={made}/last"), lines.append, table)
    assert lines[-1] == f"top1:{found.top1:.4f} images:6"
    assert lines[-2] == "top3 is left out: it is always 1 with 3 classes (topk)"
    assert not any("top3:" in line for line in lines)
    assert table.read_text().startswith("class,name,num_images,top1\n0,,2,")
    own = Path("job.yaml")
    own.write_text(own.read_text().replace("topk: 2", ""))  # nobody has asked for it
    evaluate_job(load(f"weights={made}/last"), lines.append)
    assert lines[-1] == f"top1:{found.top1:.4f} images:6"
    assert "left out" not in lines[-2]


def test_classes_without_images_are_told(folder):
    lines: list[str] = []
    train(load("num_classes=5", "training.epochs=1"), lines.append)
    assert lines[0] == "2 of the 5 classes (num_classes) have no image in train.list"


def test_the_folder_of_a_training_stands_for_its_best_weights(folder):
    made = train(load(), lambda line: None)
    best = evaluate_job(load(f"weights={made}/best"), lambda line: None)
    of_folder = evaluate_job(load(f"weights={made}/"), lambda line: None)
    assert (of_folder.by_class == best.by_class).all()
    (made / "best.pdparams").unlink()
    assert find_weights(made) == made / "last.pdparams"
    save_state(made / "0" / "ppcls.pdparams", load_state(made))
    assert find_weights(made / "0") == made / "0" / "ppcls.pdparams"


def test_mixed_images_have_no_accuracy_in_training(folder):
    lines: list[str] = []
    train(load("training.mix={name: Mixup}", "training.epochs=1"), lines.append)
    steps = [line for line in lines if " train step:" in line]
    assert steps
    assert not [line for line in steps if "top" in line]
    assert any(line.startswith("valid top1:") for line in lines)


class Writer:
    """Stands in for VisualDL's."""

    found: ClassVar[list[tuple[str, int]]] = []

    def __init__(self, folder: str) -> None:
        Path(folder).mkdir()

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        assert np.isfinite(value)
        self.found.append((tag, step))


def test_curves_of_training_and_validation_go_to_visualdl(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "visualdl", SimpleNamespace(LogWriter=Writer))
    monkeypatch.setattr(Writer, "found", [])
    train(load("vdl_dir=scalars", "topk=2"), lambda line: None)
    steps = {tag: [step for name, step in Writer.found if name == tag] for tag, _ in Writer.found}
    wanted = {f"train/{name}": [*range(6)] for name in ("loss", "top1", "top2", "lr")}
    assert steps == wanted | {"valid/top1": [2, 5], "valid/top2": [2, 5]}


THEIRS = """
ARCHITECTURE: {name: ResNet18_vd, params: {depths: [1, 1, 1, 1], width: 4}}
classes_num: 3
image_shape: [3, 32, 32]
epochs: 1
TRAIN: {batch_size: 4, num_workers: 1, file_list: train.txt, data_dir: images}
VALID: {num_workers: 1, file_list: val.txt, data_dir: images}
"""


def test_errors_name_the_keys_of_the_user_s_file(folder):
    Path("theirs.yaml").write_text(THEIRS)

    def theirs(*more: str) -> Job:
        return load_job(Path("theirs.yaml"), list(more))

    train(theirs(), lambda line: None)
    with pytest.raises(UserError, match=r"\(LEARNING_RATE.params.lr\); .*one \(model_save_dir\)"):
        train(theirs("LEARNING_RATE.params.lr=0.2"), lambda line: None)
    with pytest.raises(UserError, match=r"none.txt; correct `TRAIN.file_list`$"):
        train(theirs("TRAIN.file_list=none.txt"), lambda line: None)
    for split in ("TRAIN", "VALID"):
        place = rf"^`{split}.file_list` below .*/none \(`{split}.data_dir`\): .*missing"
        with pytest.raises(UserError, match=place):
            train(theirs(f"{split}.data_dir=none"), lambda line: None)
    with pytest.raises(UserError, match="the 2 classes of `classes_num`"):
        train(theirs("classes_num=2"), lambda line: None)
    with pytest.raises(UserError, match=r"no `VALID`: add it, or say validate: False$"):
        train(theirs("VALID=null"), lambda line: None)
    with pytest.raises(UserError, match="an evaluation needs `VALID` and `pretrained_model`"):
        evaluate_job(theirs(), lambda line: None)


IN_BOTH_FORMS = [  # (setting of PaddleClas's form, of ours, the error there, here)
    (
        "TRAIN.batch_size=100",
        "training.batch_size=100",
        "`TRAIN.batch_size` is 100, but there are only 12 images",
        "`training.batch_size` is 100, but there are only 12 images",
    ),
    (
        "LEARNING_RATE.params.lr=1e25",
        "training.lr=1e25",
        "lower `LEARNING_RATE.params.lr` or take a longer warm-up; an earlier",
        "lower `training.lr` or take a longer warm-up (or set `training.clip_norm`); an earlier",
    ),
    (
        "TRAIN.file_list=gone.txt",
        "train.list=gone.txt",
        "at most a share of 0.1 is allowed",
        "at most a share of 0.1 (`max_lost`) is allowed",
    ),
    (
        "TRAIN.transforms=[{ResizeImage: {size: 40}}]",
        "training.augmentation=[{name: Resize, size: 40}]",
        "`image_shape` is 32: let `TRAIN.transforms` have a `RandCropImage`, or a `ResizeImage` "
        "and a `CropImage`",
        "`training.image_size` is 32: let `training.augmentation` have a `RandomCrop`, or a "
        "`Resize` and a `CenterCrop`",
    ),
    (
        "TRAIN.transforms=[{ResizeImage: {size: 16}}, {CropImage: {size: 32}}]",
        "training.augmentation=[{name: Resize, size: 16}, {name: CenterCrop, size: 32}]",
        "`CropImage` of 32 x 32 pixels got an image of 16 x 16: put a `ResizeImage` to",
        "`CenterCrop` of 32 x 32 pixels got an image of 16 x 16: put a `Resize` to",
    ),
]


@pytest.mark.parametrize("form", [0, 1])
@pytest.mark.parametrize("case", IN_BOTH_FORMS)
def test_errors_of_the_engine_name_the_keys_of_the_user_s_file(folder, case, form):
    Path("theirs.yaml").write_text(THEIRS)
    Path("gone.txt").write_text("".join(f"gone{row}.png 0\n" for row in range(12)))
    job = load_job(Path(("theirs.yaml", "job.yaml")[form]), [case[form]])
    with pytest.raises(UserError) as caught:
        train(job, lambda line: None)
    assert case[2 + form] in str(caught.value)


NAMES = r"batch_size|image_size|clip_norm|ema_decay|eval_every|max_lost|num_classes|lr|accumulate"


def test_settings_that_an_error_of_the_engine_names_stand_in_backticks():
    """Or they could not be called as the user's file does, see `settings_named`."""
    for folder in ("engine", "data", "models"):
        for path in sorted((PROJECT / "ppcls_core" / folder).rglob("*.py")):
            for call in ast.walk(ast.parse(path.read_text())):
                name = getattr(call, "func", None)
                if isinstance(name, ast.Name) and name.id == "UserError":
                    parts = [n.value for n in ast.walk(call) if isinstance(n, ast.Constant)]
                    bare = re.sub("`[^`]*`", "", " ".join(map(str, parts)))
                    assert not re.search(rf"\b({NAMES})\b", bare), (path, bare)


def test_weights_for_other_classes_make_a_new_classifier_and_that_is_said(folder):
    made, lines = train(load("training.epochs=1"), lambda line: None), list[str]()
    settings = ("num_classes=5", f"weights={made}/last", "output=other", "training.epochs=1")
    train(load(*settings), lines.append)
    assert "the classifier is new: the weights are for 3 classes, the model has 5" in lines[0]


def test_the_accuracy_of_each_class_is_written(folder):
    lines = Path("val.txt").read_text().splitlines()
    Path("val.txt").write_text("\n".join([*lines[:2], "absent.png 0"]))  # of classes 0 and 1
    made = train(load("max_lost=0.5"), lambda line: None)
    out = Path("classes.csv")
    job = load(f"weights={made}/last", "max_lost=0.5")
    accuracy = evaluate_job(job, lambda line: None, out)
    header, *rows = [line.split(",") for line in out.read_text().splitlines()]
    assert header == ["class", "name", "num_images", "top1", "top2"]
    assert [row[:3] for row in rows] == [["0", "", "1"], ["1", "", "1"], ["2", "", "0"]]
    assert [float(row[4]) >= float(row[3]) for row in rows[:2]] == [True, True]
    assert rows[2][3:] == ["", ""]
    assert sum(float(row[3]) for row in rows[:2]) / 2 == accuracy.top1
    assert accuracy.lost == {"missing": 1}


def class_folders(root: str, *names: str) -> None:
    for row, name in enumerate(names):
        (Path(root) / name).mkdir(parents=True)
        (Path(root) / name / f"{row}.png").write_bytes(Path(f"images/{row}.png").read_bytes())


@pytest.mark.parametrize(
    ("train_list", "val_list", "words"),
    [
        (
            "1/cat/0.png 0\n1/dog/1.png 1\n",
            "2/cat/0.png 1\n2/dog/1.png 0\n",
            "class 'cat' is number",
        ),
        ("1", "2/cat/0.png 2\n2/dog/1.png 1\n2/owl/2.png 0\n", "class 'cat' is number 0"),
        ("1", "3", "other class folders than the classes of train: only in val fox"),
        (
            "1/cat/0.png 0\n2/dog/1.png 1\n",
            "4.png 3\n",
            "label 3 .* none of the 3 classes of `num_classes`",
        ),
        ("4", "4", "holds 2 class folders or class tars, expected the 3 of `num_classes`"),
    ],
)
def test_splits_that_disagree_about_classes_are_refused(folder, train_list, val_list, words):
    class_folders("1", "cat", "dog", "owl")
    class_folders("2", "cat", "dog", "owl")
    class_folders("3", "cat", "dog", "fox")
    class_folders("4", "cat", "dog")
    settings = ["train.root=.", "val.root=."]
    for split, given in (("train", train_list), ("val", val_list)):
        if given.isdigit():
            settings.append(f"{split}.list='{given}'")
        else:
            Path(f"{split}.txt").write_text(given)
    with pytest.raises(UserError, match=words):
        images_of(load(*settings), "train", "val")


def test_splits_may_have_roots_of_their_own_and_lack_classes(folder):
    class_folders("1", "cat", "dog", "owl")
    Path("2").mkdir()
    Path("train.txt").write_text("cat/0.png 0\ndog/1.png 1\n")
    train_set, val_set = images_of(load("train.root='1'"), "train", "val")
    assert train_set.labels.tolist() == [0, 1]
    assert val_set.labels.max() == 2
    assert train_set.sources() != val_set.sources()


def test_classes_of_folders_have_names(folder):
    for row, name in enumerate(("cat", "dog", "owl")):
        (folder / "named" / name).mkdir(parents=True)
        (folder / "named" / name / "a.png").write_bytes(Path(f"images/{row}.png").read_bytes())
    made = train(load(), lambda line: None)
    named = ["val.list=named", "val.root=named"]
    evaluate_job(load(f"weights={made}/last", *named), lambda line: None, Path("out/classes.csv"))
    rows = [line.split(",") for line in Path("out/classes.csv").read_text().splitlines()[1:]]
    assert [row[:3] for row in rows] == [["0", "cat", "1"], ["1", "dog", "1"], ["2", "owl", "1"]]


def test_the_same_command_again_makes_nothing_anew(folder):
    made = train(load(), lambda line: None)
    before = (made / "last.pdparams").read_bytes()
    lines: list[str] = []
    train(load("log_every=5"), lines.append)
    assert not any("train step" in line for line in lines)
    assert (made / "last.pdparams").read_bytes() == before


def correct_a_label(folder):
    text = Path("train.txt").read_text()
    Path("train.txt").write_text(text.replace("4.png 1", "4.png 2"))


def exchange_an_image(folder):
    cv2.imwrite("images/4.png", np.zeros((50, 50, 3), np.uint8))


def exchange_a_validation_image(folder):
    Path("val.txt").write_text(Path("val.txt").read_text().replace("4.png", "7.png"))


def replace_the_weights(folder):
    save_state(Path("start.pdparams"), state_of(build("ResNet18_vd", 7)))


def replace_the_teacher(folder):
    save_state(Path("teacher.pdparams"), state_of(build("ResNet18_vd", 8)))


def build(name, seed):
    paddle.seed(seed)
    return build_model(name, num_classes=3, spec={"depths": [1, 1, 1, 1], "width": 4})


DISTILL = (
    "weights=start",
    "training=null",
    "distill={epochs: 2, batch_size: 4, image_size: 32, lr: 0.05, eval_every: 1}",
    "teacher={model: {name: ResNet18_vd, spec: {depths: [1, 1, 1, 1], width: 4}}, weights: "
    "./teacher.pdparams}",
)


class Stopped:
    """A supervisor that asks for a stop, before which a checkpoint is written."""

    stop_requested = True

    def after_epoch(self, row: Mapping[str, float]) -> None:
        raise AssertionError("it should have stopped before")


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (correct_a_label, "training images"),
        (exchange_an_image, "training images"),
        (exchange_a_validation_image, "validation images"),
        (replace_the_weights, "weights"),
        (replace_the_teacher, "teacher's weights"),
        (lambda folder: None, None),
    ],
)
def test_a_training_of_other_inputs_is_neither_taken_nor_resumed(folder, change, what, is_finished):
    for name in ("start", "teacher"):
        save_state(Path(f"{name}.pdparams"), state_of(build("ResNet18_vd", 1)))
    job = load(*DISTILL)
    if is_finished:
        train(job, lambda line: None)
    else:
        with pytest.raises(Interrupted):
            train(job, lambda line: None, Stopped())
    change(folder)
    lines: list[str] = []
    if what is None:
        train(job, lines.append)
        assert any("trained already" in line for line in lines) == is_finished
        return
    with pytest.raises(UserError, match=rf"holds a training with other .*\b{what}.*delete"):
        train(job, lines.append)
    assert lines == []


@pytest.mark.parametrize(
    ("row", "what"), [(11, r"training images\)"), (3, "training images, validation images")]
)
def test_an_exchanged_image_of_as_many_bytes_makes_another_training(folder, row, what):
    for path in Path("images").glob("*.png"):
        cv2.imwrite(str(path.with_suffix(".bmp")), cv2.imread(str(path)))
    for name in ("train.txt", "val.txt"):
        Path(name).write_text(Path(name).read_text().replace(".png", ".bmp"))
    made, path = train(load("training.epochs=1"), lambda line: None), Path(f"images/{row}.bmp")
    before = path.stat().st_size
    cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
    assert path.stat().st_size == before
    lines: list[str] = []
    with pytest.raises(UserError, match=rf"{made}: holds a training with other .*\({what}"):
        train(load("training.epochs=1"), lines.append)
    assert lines == []


def test_a_teacher_of_other_classes_is_refused(folder):
    for name in ("start", "teacher"):
        save_state(Path(f"{name}.pdparams"), state_of(build("ResNet18_vd", 1)))
    with pytest.raises(
        UserError, match=r"teacher's weights, for ResNet18_vd with the 4 .*are for 3 "
    ):
        train(load(*DISTILL, "num_classes=4", "weights=null"), lambda line: None)


def test_lost_images_are_told_and_kept_with_the_history(folder):
    Path("images/3.png").write_bytes(b"")
    lines: list[str] = []
    made = train(load("max_lost=0.2"), lines.append)
    assert "1 of 12 training images could not be used (empty: 1)" in lines
    assert "1 of 6 validation images could not be used (empty: 1)" in lines
    for row in json.loads((made / "history.json").read_text()):
        assert (row["rejected: empty"], row["val rejected: empty"]) == (1, 1)


@pytest.mark.parametrize(
    ("file", "message"),
    [("train.txt", "12 of 24 training images"), ("val.txt", "6 of 12 validation images")],
)
def test_images_that_are_not_there_stop_the_training_before_it_begins(folder, file, message):
    lines = Path(file).read_text().splitlines()
    Path(file).write_text("\n".join([*lines, *(f"no-{line}" for line in lines)]))
    told: list[str] = []
    with pytest.raises(UserError, match=rf"{message} could not be used \(missing: "):
        train(load(), told.append)
    assert told == []


def test_another_training_in_the_same_folder_is_refused(folder):
    made = train(load(), lambda line: None)
    with pytest.raises(UserError, match=r"holds a training with other settings.*\(training\.lr\)"):
        train(load("training.lr=0.1"), lambda line: None)
    (made / "job.json").unlink()
    (made / "checkpoint.pdckpt").touch()
    with pytest.raises(UserError, match=r"a checkpoint without job.json"):
        train(load(), lambda line: None)


class Killed(BaseException):
    """As a kill does, it leaves what lies in the folder."""


def dying_at(part: str, lines: list[str]) -> Callable[[str], None]:
    def log(line: str) -> None:
        lines.append(line)
        if part in line:
            raise Killed

    return log


def test_a_folder_with_nothing_to_lose_is_taken_by_the_corrected_command(folder):
    lines: list[str] = []
    with pytest.raises(UserError, match="there are only 12 images"):
        train(load("training.batch_size=100"), lines.append)
    assert Path("output/ResNet18_vd/job.json").exists()
    made = train(load(), lines.append)
    assert json.loads((made / "job.json").read_text())["training"]["batch_size"] == 4


@pytest.mark.parametrize("is_validated", [True, False])
def test_a_training_that_was_killed_before_its_first_checkpoint_says_so(folder, is_validated):
    lines, settings = list[str](), ("save_every=1",) * (not is_validated)
    with pytest.raises(Killed):
        train(load(*settings), dying_at("END epoch:0", lines))
    assert not any("begins anew" in line for line in lines)
    with pytest.raises(UserError, match=r"other settings.*\(training\.lr\)"):  # weights to lose
        train(load("training.lr=0.1", *settings), lines.append)
    train(load(*settings), lines.append)
    told = "begins anew: the training here ended before its first checkpoint (one is written "
    assert [line for line in lines if told + "every 60 seconds" in line]


def test_without_validation_there_is_none_and_no_weights_are_the_best(folder):
    Path("theirs.yaml").write_text(THEIRS)
    lines: list[str] = []
    made = train(load_job(Path("theirs.yaml"), ["validate=false", "VALID=null"]), lines.append)
    assert not any("valid " in line for line in lines)
    assert any(line.startswith("no epoch is validated, as the settings say") for line in lines)
    assert json.loads((made / "history.json").read_text())[0].keys() == {"epoch", "loss", "lr"}
    assert not (made / "best.pdparams").exists()
    assert find_weights(made) == made / "last.pdparams"


def test_what_a_training_wrote_down_is_no_configuration(folder):
    made = train(load("training.epochs=1"), lambda line: None)
    with pytest.raises(UserError, match=rf"job.json: is what .*-c FILE.* --weights {made} IMAGE"):
        load_job(made / "job.json", [])


def test_a_stopped_training_goes_on_to_the_same_weights(ppcls, folder, monkeypatch):
    train(load("output=whole"), lambda line: None)

    lines: list[str] = []

    def interrupt(line: str) -> None:
        lines.append(line)
        if "train step" in line and len(lines) == 1:
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C does

    with monkeypatch.context() as context:
        context.setattr("ppcls_core.cli.training.log", interrupt)
        assert ppcls("train", "-c", "job.yaml").returncode == 130
    assert not Path("output/ResNet18_vd/history.json").exists()
    train(load(), lines.append)
    assert any("resumes at step" in line for line in lines)
    for name in ("last.pdparams", "best.pdparams"):
        got = Path("output/ResNet18_vd", name).read_bytes()
        assert got == Path("whole/ResNet18_vd", name).read_bytes()


def test_a_trial_reads_no_data_and_writes_nothing(folder, monkeypatch):
    for path in ("train.txt", "val.txt"):
        Path(path).unlink()
    monkeypatch.setattr("ppcls_core.engine.trainer.save_state", None)
    before, begun = sorted(folder.rglob("*")), time.monotonic()
    lines: list[str] = []
    settings = ["training.epochs=90", "training.batch_size=4096", "weights=absent"]
    try_out(load(*settings, "training.precision.dtype=fp16"), lines.append)
    assert any("train step:0" in line for line in lines)
    assert any(line.startswith("tried in fp32: `training.precision.dtype`: fp16") for line in lines)
    assert not any("END" in line for line in lines)
    assert lines[-1].endswith("works")
    assert sorted(folder.rglob("*")) == before
    assert time.monotonic() - begun < 60


def test_a_trial_of_an_evaluation_sends_an_image_through(folder):
    lines: list[str] = []
    try_out(load("training=null", "train=null"), lines.append)
    assert lines[-1] == "evaluation: works"


def test_a_trial_of_paddleclas_s_distillation(folder):
    text = """
ARCHITECTURE:
    name: ResNet18_vd_distill_MobileNetV3_small_x0_35
    params: {lr_mult_list: [0.25, 0.25, 0.5, 0.5, 0.75]}
pretrained_model: [./absent/teacher, ./absent/student/]
classes_num: 3
image_shape: [3, 32, 32]
epochs: 20
use_distillation: True
use_fp16: True
LEARNING_RATE: {function: Cosine, params: {lr: 0.01}}
TRAIN:
    batch_size: 1024
    file_list: absent.txt
    data_dir: absent
    transforms:
        - RandCropImage: {size: 32}
        - NormalizeImage: {scale: 1.0/255.0}
        - RandomErasing: {EPSILON: 0.5}
        - ToCHWImage:
"""
    Path("theirs.yaml").write_text(text)
    lines: list[str] = []
    try_out(load_job(Path("theirs.yaml"), []), lines.append)
    assert lines[-1].startswith("augmentation RandomCrop RandomErasing; Cosine lr 0.01; Momentum")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.list=none.txt", r"no list file or folder .*none\.txt"),
        ("num_classes=2", "label 2 of .* none of the 2 classes of `num_classes`"),
        ("weights=none", "none: no such file, nor none.pdparams"),
        ("training.batch_size=100", "there are only 12 images"),
        ("val=null", "a training needs `train`, `val`, `training`; .* training.eval_every: 0$"),
        ("training=null", "a training needs `train`, `val`, `training`$"),
    ],
)
def test_what_is_missing_is_named(folder, setting, message):
    with pytest.raises(UserError, match=message):
        train(load(setting), lambda line: None)


def test_an_evaluation_needs_weights_of_its_classes(folder):
    with pytest.raises(UserError, match="needs `val` and `weights`"):
        evaluate_job(load(), lambda line: None)
    made = train(load(), lambda line: None)
    with pytest.raises(UserError, match=r"are for 3 classes.* 5: .* `-o num_classes=3`\)$"):
        evaluate_job(load(f"weights={made}/last", "num_classes=5"), lambda line: None)


@pytest.mark.parametrize("label", [-1, -9, 3])
def test_a_label_outside_the_classes_is_refused(folder, label):
    Path("val.txt").write_text(f"0.png {label}\n")
    made = train(load("val.list=train.txt"), lambda line: None)
    with pytest.raises(UserError, match=f"label.* {label}|{label}"):
        evaluate_job(load(f"weights={made}/last"), lambda line: None)


def test_an_evaluation_of_no_readable_image_is_an_error(folder):
    made = train(load(), lambda line: None)
    Path("val.txt").write_text("absent.png 0\n")
    with pytest.raises(UserError, match=r"1 of 1 validation images .* \(missing: 1\)"):
        evaluate_job(load(f"weights={made}/last"), lambda line: None)


def test_a_list_without_labels_is_refused(folder):
    Path("train.txt").write_text("0.png\n1.png\n")
    with pytest.raises(UserError, match="has no label"):
        images_of(load(), "train")
