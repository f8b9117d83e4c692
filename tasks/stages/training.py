"""What the training stages share: run the engine on a model, leave weights and history.

Files: model.pdparams (weights), history.json (a row an epoch: loss, lr, validation top-1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_catalog.base.files import write_json
from tasks.run.stage import Outcome, Work
from tasks.stages.inputs import images
from tasks.stages.models import new_model, trained_model

if TYPE_CHECKING:
    import paddle

    from ppcls_core.data.loader import TrainLoader
    from ppcls_core.engine.config import DistillTraining, TrainConfig
    from ppcls_core.engine.objectives import Objective
    from ppcls_core.models.networks.layers import Network

FILES = ["model.pdparams", "history.json"]


def train(
    work: Work,
    model: Network,
    objective: Objective,
    loader: TrainLoader,
    config: TrainConfig,
) -> Outcome:
    """Train what of `model` learns on the loader's images; resumes from its checkpoint.

    Where the stage runs in several processes, each calls this and the first writes the files.
    """
    from ppcls_core.engine.distributed import world
    from ppcls_core.engine.evaluator import evaluate
    from ppcls_core.engine.trainer import Training, fit
    from ppcls_core.models.weights.files import save_state
    from ppcls_core.models.weights.state import state_of

    val, run_time = images(work, "data/val.arrow"), work.recipe.run_time

    def validate(model: paddle.nn.Layer) -> float:
        return evaluate(model, val, config.preprocess, run_time.workers, work.monitor).top1

    learning = [p for p in model.parameters() if not p.stop_gradient]
    training = Training(model, learning, objective, loader, validate)
    history = fit(training, config, work.directory, run_time.checkpoint_seconds, work.monitor)
    if world().is_first:
        save_state(work.path("model.pdparams"), state_of(model))
        write_json(work.path("history.json"), history)
    return Outcome(FILES, _counts(loader), {"top1": history[-1]["top1"]})


def loader_of(work: Work, name: str, config: TrainConfig) -> TrainLoader:
    """Training batches of the images `name`; Fix, not augmenting, sees them as in a test."""
    from ppcls_core.data.loader import TrainLoader
    from ppcls_core.engine.config import DistillTraining, LabelTraining
    from ppcls_core.runtime.randomness import seed_of

    augments = isinstance(config, LabelTraining | DistillTraining)
    return TrainLoader(
        images(work, name),
        config.batch_size,
        config.image_size,
        config.augmentation if augments else config.preprocess,
        seed_of(work.recipe.seed, work.stage),
        work.recipe.run_time.workers,
        config.mix if augments else None,
        config.epochs,
    )


def distill_from_teacher(
    work: Work, student: Network, train_images: str, config: DistillTraining
) -> Outcome:
    """Train `student` on the teacher's outputs for images."""
    from ppcls_core.engine.objectives import distillation, replay

    student.train()
    loader = loader_of(work, train_images, config)
    if config.teacher == "replay":
        loader = replayed(work, loader)
        return train(work, student, replay(config.loss), loader, config)
    teacher = teacher_model(work)
    objective = distillation([teacher], config.loss, config.teacher_batch_norm)
    return train(work, student, objective, loader, config)


def replayed(work: Work, loader: TrainLoader) -> TrainLoader:
    """`loader` on the labelled views, with the teacher's outputs for them.

    Raises:
        UserError: they were made by another teacher, augmentation or code.
    """
    from dataclasses import replace

    from ppcls_core.data.loader import Replay
    from ppcls_core.labels.store import LabelStore
    from tasks.stages import views

    store = LabelStore.open(work.inputs["views"].directory, views.origin(work))
    seed = views.augmented_views(work).root_seed  # whichever stage replays
    return replace(loader, seed=seed, replay=Replay(store, work.recipe.label.views))


def teacher_model(work: Work) -> Network:
    """The teacher with its weights, in eval mode."""
    weights = work.inputs["teacher"].path("model.pdparams")
    return trained_model(work, work.recipe.teacher.model, weights)


def new_student(work: Work) -> Network:
    """The student before training; baseline and distill start from the same weights."""
    return new_model(work, work.recipe.student, "student")


def student_of(work: Work, stage: str) -> Network:
    """The student as an earlier stage left it, in eval mode."""
    return trained_model(work, work.recipe.student, work.inputs[stage].path("model.pdparams"))


def _counts(loader: TrainLoader) -> dict[str, int]:
    rejected, total = loader.rejected.counts(), len(loader.images)
    bad = {f"rejected: {reason}": number for reason, number in rejected.items()}
    return {"in": total, "out": total - sum(rejected.values()), **bad}
