"""One training of a stage: its images, settings and files, as `ppcls_core.engine.run` takes them.

Files: model.pdparams (weights), history.json (a row an epoch: loss, lr, validation top-1, images
that could not be read).
"""

from __future__ import annotations

from ppcls_core.data.loader import Replay
from ppcls_core.data.transforms import Preprocess
from ppcls_core.engine.config import DistillTraining, TrainConfig
from ppcls_core.engine.evaluator import EvalData
from ppcls_core.engine.objectives import Objective, distillation, replay
from ppcls_core.engine.run import HISTORY, Run
from ppcls_core.engine.run import train as train_model
from ppcls_core.labels.store import LabelStore
from ppcls_core.models.networks.layers import Network
from ppcls_core.runtime.randomness import seed_of
from tasks.run.stage import Outcome, Work
from tasks.stages import views
from tasks.stages.inputs import images
from tasks.stages.models import teacher_model

WEIGHTS = "model.pdparams"
FILES = [WEIGHTS, HISTORY]


def eval_data(work: Work, preprocess: Preprocess) -> EvalData:
    """The validation images, seen as `preprocess` says."""
    run_time = work.recipe.run_time
    val = images(work, "data/val.arrow")
    return EvalData(val, preprocess, run_time.workers, run_time.max_lost)


def run_of(work: Work, name: str, config: TrainConfig, stored: Replay | None = None) -> Run:
    """A training on the images `stage/file`, validated at the resolution of `config`."""
    own = seed_of(work.recipe.seed, work.stage)
    return Run(
        images(work, name),
        eval_data(work, config.preprocess),
        config,
        # The views were labelled under the seed of `distill`, whichever stage replays them.
        views.augmented_views(work).root_seed if stored else own,
        work.directory,
        work.monitor,
        weights=WEIGHTS,
        save_seconds=work.recipe.run_time.checkpoint_seconds,
        replay=stored,
    )


def train(model: Network, objective: Objective, run: Run) -> Outcome:
    """Train to the end; of several processes each calls this and the first writes the files."""
    trained = train_model(model, objective, run)
    return Outcome(FILES, trained.counts, {"top1": trained.history[-1]["top1"]})


def distill_from_teacher(
    work: Work, student: Network, name: str, config: DistillTraining
) -> Outcome:
    """Train `student` on the teacher's outputs for the images `stage/file`; labels are not used.

    The teacher is asked in each step, or its stored outputs are replayed.
    """
    student.train()
    if config.teacher == "replay":
        run = run_of(work, name, config, stored_outputs(work))
        return train(student, replay(config.loss), run)
    objective = distillation([teacher_model(work)], config.loss, config.teacher_batch_norm)
    return train(student, objective, run_of(work, name, config))


def stored_outputs(work: Work) -> Replay:
    """The teacher's outputs for the labelled views.

    Raises:
        UserError: they were made by another teacher, augmentation or code.
    """
    store = LabelStore.open(work.inputs["views"].directory, views.origin(work))
    return Replay(store, work.recipe.label.views)
