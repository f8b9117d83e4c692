"""The stages that train: what each one's model learns, on which images, towards what.

Files: model.pdparams (weights), best.pdparams and checkpoints (not part of the result),
history.json (a row an epoch: loss, lr, validation top-1, images that could not be read).
"""

from __future__ import annotations

from pathlib import Path

from data_catalog.base.files import write_json
from ppcls_core.data.loader import Replay
from ppcls_core.engine.config import DistillTraining, TrainConfig
from ppcls_core.engine.evaluator import evaluate
from ppcls_core.engine.objectives import Objective, cross_entropy, distillation, replay
from ppcls_core.engine.run import HISTORY, Run
from ppcls_core.engine.run import train as train_model
from ppcls_core.inference.classes import check_class_names
from ppcls_core.labels.store import LabelStore
from ppcls_core.models.networks.layers import Network
from ppcls_core.models.registry import classifier_parameters
from ppcls_core.models.weights.files import save_state
from ppcls_core.models.weights.state import state_of
from ppcls_core.runtime.randomness import seed_of
from tasks.run.stage import Outcome, Work
from tasks.stages import views
from tasks.stages.inputs import (
    eval_data,
    images,
    new_model,
    new_student,
    student_of,
    teacher_model,
    trained_model,
)

WEIGHTS = "model.pdparams"


def teacher(work: Work) -> Outcome:
    """Train the teacher on labels, or take its given weights as they are."""
    config = work.recipe.teacher
    if config.weights is not None:
        return _adopt(work, Path(config.weights))
    assert config.train is not None
    model = new_model(work, config.model, "teacher")
    model.train()
    run = run_of(work, "data/teacher.arrow", config.train)
    return _train(model, cross_entropy(config.train.label_smoothing), run)


def _adopt(work: Work, weights: Path) -> Outcome:
    data = eval_data(work, work.recipe.teacher.preprocess)
    check_class_names(weights, data.images.classes)
    model = trained_model(work, work.recipe.teacher.model, weights)
    accuracy = evaluate(model, data, work.monitor)
    save_state(work.path(WEIGHTS), state_of(model))
    write_json(work.path(HISTORY), [])
    return Outcome([WEIGHTS, HISTORY], accuracy.counts, {"top1": accuracy.top1})


def baseline(work: Work) -> Outcome:
    """Train the student on the labelled images alone."""
    config, model = work.recipe.baseline, new_student(work)
    model.train()
    run = run_of(work, "data/train.arrow", config)
    return _train(model, cross_entropy(config.label_smoothing), run)


def distill(work: Work) -> Outcome:
    """Train the student on the teacher's outputs for the selection; labels are not used."""
    return _distill(work, new_student(work), "select/train.arrow", work.recipe.distill)


def finetune(work: Work) -> Outcome:
    """Train the distilled student on the teacher's outputs for the labelled images."""
    return _distill(work, student_of(work, "distill"), "data/train.arrow", work.recipe.finetune)


def fix(work: Work) -> Outcome:
    """Train the finetuned student's classifier on labels; all else is frozen, in eval mode."""
    student = student_of(work, "finetune")
    learning = {id(p) for p in classifier_parameters(student)}
    for parameter in student.parameters():
        parameter.stop_gradient = id(parameter) not in learning
    run = run_of(work, "data/train.arrow", work.recipe.fix)
    return _train(student, cross_entropy(0.0), run)


def run_of(work: Work, name: str, config: TrainConfig, stored: Replay | None = None) -> Run:
    """A training on the images `stage/file`, validated at the resolution of `config`."""
    # The views were labelled under the seed of `distill`, whichever stage replays them.
    own = seed_of(work.recipe.seed, work.stage)
    return Run(
        images(work, name),
        eval_data(work, config.preprocess),
        config,
        views.augmented_views(work).root_seed if stored else own,
        work.directory,
        work.monitor,
        weights=WEIGHTS,
        save_seconds=work.recipe.run_time.checkpoint_seconds,
        replay=stored,
    )


def stored_outputs(work: Work) -> Replay:
    """The teacher's outputs for the labelled views.

    Raises:
        UserError: they were made by another teacher, augmentation or code.
    """
    store = LabelStore.open(work.inputs["views"].directory, views.origin(work))
    return Replay(store, work.recipe.label.views)


def _distill(work: Work, student: Network, name: str, config: DistillTraining) -> Outcome:
    """Train `student` on the teacher's outputs, asked in each step or stored."""
    student.train()
    if config.teacher == "replay":
        run = run_of(work, name, config, stored_outputs(work))
        return _train(student, replay(config.loss), run)
    objective = distillation([teacher_model(work)], config.loss, config.teacher_batch_norm)
    return _train(student, objective, run_of(work, name, config))


def _train(model: Network, objective: Objective, run: Run) -> Outcome:
    """Train to the end; of several processes each calls this and the first writes the files."""
    trained = train_model(model, objective, run)
    return Outcome([run.weights, HISTORY], trained.counts, {"top1": trained.history[-1]["top1"]})
