"""The steps of a recipe's trainings, known before they run, and what about them looks wrong."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from data_catalog.base.errors import UserError
from data_catalog.base.words import counted
from ppcls_core.engine.config import TeacherTraining
from tasks.recipe import STUDENTS, Recipe

FEW = 500  # steps of a training from nothing under which it is told as short
UNEQUAL = 1.5  # steps of distill and of the baseline, one over the other, that are told
_OF_ONE_SIZE = ("baseline", "distill", "finetune")  # which are compared, or go on from another


@dataclass(frozen=True)
class Steps:
    """A training of `epochs` with `an_epoch` steps each; `at_most` where a selection decides."""

    stage: str
    epochs: int
    an_epoch: int
    at_most: bool = False

    @property
    def total(self) -> int:
        """Steps in all."""
        return self.epochs * self.an_epoch

    def __str__(self) -> str:
        """Such as "distill at most 29 x 55 = 1,595"."""
        most = " at most" if self.at_most else ""
        return f"{self.stage}{most} {self.epochs:,} x {self.an_epoch:,} = {self.total:,}"


def steps_of(recipe: Recipe, num_images: dict[str, int], num_classes: int) -> list[Steps]:
    """The trainings of `recipe` on so many images by split (train, teacher, pool), in order.
    Raises UserError: there are not enough for a batch."""
    select, pool = recipe.select, num_images["pool"]
    chosen = 0 if select.policy == "none" else min(pool, select.k * num_classes)
    found, network = list[Steps](), recipe.network
    if network and isinstance(network.train, TeacherTraining):
        an_epoch = _batches("teacher.train", num_images["teacher"], network.train.batch_size)
        found.append(Steps("teacher", network.train.epochs, an_epoch))
    for name in STUDENTS:
        config, more = getattr(recipe, name), chosen if name == "distill" else 0
        an_epoch = _batches(name, num_images["train"] + more, config.batch_size)
        found.append(Steps(name, config.epochs, an_epoch, bool(more)))
    return found


def _batches(training: str, num: int, batch_size: int) -> int:
    if num < batch_size:  # which its loader would say too, hours later
        raise UserError(
            f"`{training}.batch_size` is {batch_size}, but there are only "
            f"{counted(num, 'image')} to train on: lower it to at most that number"
        )
    return num // batch_size


def doubts(recipe: Recipe, steps: list[Steps]) -> Iterator[str]:
    """Properties of the trainings that make a poor or unfair result likely, a sentence each."""
    by_stage = {each.stage: each for each in steps}
    if recipe.select.policy != "none" and not by_stage["distill"].at_most:
        yield (
            "select: has no effect: the pool holds no image but those of train; give data.pool "
            "other images, or set select.policy=none"
        )
    for name in ("teacher", "baseline", "distill"):
        if (found := by_stage.get(name)) and found.total < FEW:
            few = counted(found.total, "step is", "steps are")
            yield f"{name}: {few} few for a network that starts from nothing"
    if unequal := unequal_steps(by_stage["baseline"].total, by_stage["distill"].total):
        yield unequal
    yield from doubts_of_settings(recipe)


def unequal_steps(baseline: int, distill: int) -> str:
    """A sentence where so many steps make the comparison of the two unfair; else ""."""
    if max(baseline, distill) <= UNEQUAL * max(min(baseline, distill), 1):
        return ""
    return (
        f"baseline and distill differ in steps ({baseline:,} and {distill:,}): the gain is "
        "not that of the teacher alone, but of longer or shorter training too"
    )


def doubts_of_settings(recipe: Recipe) -> Iterator[str]:
    """Those of `doubts` that are seen without the images."""
    if recipe.select.policy == "none" and "k" in recipe.select.model_fields_set:
        yield (
            "select.k: has no effect, as select.policy is none: no pool image is selected; with "
            "data.pool of images without labels set select.policy=best"
        )
    sizes = {name: getattr(recipe, name).image_size for name in STUDENTS}
    if len({sizes[name] for name in _OF_ONE_SIZE}) > 1 or sizes["fix"] < sizes["finetune"]:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        yield (
            f"image_size: {listed}: one learns what another does not see; set the same for "
            f"{', '.join(_OF_ONE_SIZE)}, and it or more for fix"
        )
    network = recipe.network
    if network and isinstance(network.train, TeacherTraining):
        trained, labels = network.train.image_size, network.image_size
        if labels < trained:
            yield (
                f"teacher: it is trained on {trained} pixels and labels at {labels}, where it is "
                "worse; set teacher.image_size and teacher.train.image_size"
            )
    trainings = {name: getattr(recipe, name) for name in STUDENTS}
    if network and isinstance(network.train, TeacherTraining):
        trainings["teacher.train"] = network.train
    rising = defaultdict[tuple[int, float], list[str]](list)
    for name, config in trainings.items():
        warmup = getattr(config.schedule, "warmup_epochs", 0)
        if warmup >= config.epochs:
            rising[config.epochs, warmup].append(name)
    for (epochs, warmup), names in rising.items():
        keys = ", ".join(f"{name}.schedule.warmup_epochs" for name in names)
        yield (
            f"{', '.join(names)}: the learning rate rises through all {counted(epochs, 'epoch')} "
            f"and never falls, as the warm-up is of {warmup:g}; set {keys}"
        )
