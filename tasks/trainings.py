"""The trainings of a recipe that leaves them out, and what relates those that `ssld init` writes.

A recipe need not know how many images there are, nor on which machine it runs: equal recipes mean
equal results everywhere. So what it leaves out has plain figures, the same for any data; those of
`ssld init` suit the data and the machine, and stand in the recipe that it writes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ppcls_core.engine.config import DistillTraining

EPOCHS, IMAGE_SIZE = 60, 224  # of `distill` and the baseline
BATCH_SIZE, LR = 32, 0.05  # images a step, and the baseline's rate for so many
CROP = [0.3, 1]  # share of the picture that a crop shows, at least and at most
LONG = 15  # epochs from which on the schedule's own 5 warm up
LARGE = 224  # pixels from which on Fix gains by showing whole pictures larger


@dataclass(frozen=True)
class TrainingShare:
    """How a training differs from the baseline: factors of its rate and of its steps."""

    rate: float
    steps: float


SHARES = {
    "baseline": TrainingShare(1, 1),
    "distill": TrainingShare(3, 1),
    "finetune": TrainingShare(1 / 10, 1 / 16),
    "fix": TrainingShare(1 / 10, 1 / 10),
}


def schedule(epochs: int) -> dict[str, Any]:
    """The schedule of a training of so many epochs, which must not rise in all of them."""
    warmup = {} if epochs >= LONG else {"warmup_epochs": min(1, epochs // 3)}
    return {"name": "CosineWarmup", **warmup}


def fix_size(image_size: int) -> int:
    """Resolution of Fix after a training at `image_size`: on small images a larger one loses."""
    return image_size * 8 // 7 if image_size >= LARGE else image_size


def with_trainings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """`recipe`, the content of its file, with the trainings that it leaves out.

    distill, where it is left out, is by replay, which any teacher can serve. The others are like
    distill: its batch, resolution and augmentation; rate and epochs by SHARES. A training that the
    recipe has stays as it is.
    """
    given = {"distill": _distill(), **recipe}
    try:
        like = DistillTraining.model_validate(given["distill"])
    except ValidationError:  # which will be told of the recipe as a whole
        like = DistillTraining.model_validate(_distill())
    common = like.model_dump(include={"batch_size", "image_size", "augmentation"}, mode="json")
    answers = like.model_dump(include={"teacher", "teacher_batch_norm", "loss"}, mode="json")
    whole = {"batch_size": like.batch_size, "image_size": fix_size(like.image_size)}
    return {
        "baseline": common | _length(like, "baseline"),
        "finetune": common | answers | _length(like, "finetune"),
        "fix": whole | _length(like, "fix"),
        **given,
    }


def _distill() -> dict[str, Any]:
    return {
        "epochs": EPOCHS,
        "batch_size": BATCH_SIZE,
        "image_size": IMAGE_SIZE,
        "lr": LR * SHARES["distill"].rate,
        "augmentation": [{"name": "RandomCrop", "scale": CROP}, {"name": "RandomFlip"}],
        "teacher": "replay",
        "teacher_batch_norm": "running",
    }


def _length(like: DistillTraining, name: str) -> dict[str, Any]:
    """Epochs, rate and schedule of the training `name` beside `like`."""
    epochs = max(1, round(like.epochs * SHARES[name].steps))
    rate = SHARES[name].rate / SHARES["distill"].rate
    return {"epochs": epochs, "lr": like.lr * rate, "schedule": schedule(epochs)}
