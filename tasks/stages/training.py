"""The stages that train, a function each, and the networks of a recipe.

Files: model.pdparams (weights), history.json (a row an epoch: loss, lr, validation top-1, images
that could not be read; empty for a teacher whose weights are given, or given and probed);
measured.parquet of such a teacher (see `measure`).
"""

from pathlib import Path
from pkgutil import resolve_name

import paddle

from data_catalog.base.config import UserError
from data_catalog.base.errors import settings_named
from data_catalog.base.files import write_json
from data_catalog.base.words import counted
from ppcls_core.data.loader import Replay
from ppcls_core.data.transforms import Preprocess
from ppcls_core.engine.config import DistillTraining, LabelTraining, Probe, TrainConfig
from ppcls_core.engine.evaluator import EvalData
from ppcls_core.engine.objectives import Objective, cross_entropy, distillation, replay
from ppcls_core.engine.run import HISTORY, Run
from ppcls_core.engine.run import train as train_model
from ppcls_core.engine.threads import threads_of_step
from ppcls_core.inference.sidecar import check_class_names
from ppcls_core.models.networks.layers import Network
from ppcls_core.models.registry import ModelConfig, build_model, classifier_parameters
from ppcls_core.models.weights.files import save_state
from ppcls_core.models.weights.state import load_weights, state_of
from ppcls_core.runtime.randomness import seed_of
from tasks.recipe import TeacherConfig
from tasks.run.stage import Outcome, Work
from tasks.stages.label import augmented_views, replayed_labels
from tasks.stages.teachers import MEASURED, WEIGHTS, adopt, measure, network_teacher

FILES = [WEIGHTS, HISTORY]
_PROBE = "tasks.stages.probe:probe"  # imports scikit-learn


def teacher(work: Work) -> Outcome:
    """A given teacher as it is or adapted to the classes, or a model trained from none."""
    config = work.recipe.network
    if config is None:
        return adopt(work)
    weights = Path(config.weights or "")
    if config.train is None:
        classes = work.images("data/val.arrow").classes
        check_class_names(weights, classes)  # same number is not same classes
        return _adopt(work, config, trained_model(work, config.model, weights), {})
    model = new_model(work, config.model, "teacher")
    if config.weights is not None:
        load_weights(model, weights, work.monitor.note)
    if isinstance(config.train, Probe):
        return _adopt(work, config, model, resolve_name(_PROBE)(work, config, weights, model))
    return _on_labels(work, model, "overlap/teacher.arrow", config.train)


def _adopt(work: Work, config: TeacherConfig, model: Network, counts: dict[str, int]) -> Outcome:
    """The outcome of a teacher that was not trained by steps: its weights and accuracy."""
    save_state(work.path(WEIGHTS), state_of(model))
    write_json(work.path(HISTORY), [])
    accuracy = measure(work, network_teacher(work, config, work.directory))
    return Outcome([*FILES, MEASURED], counts or accuracy.counts, {"top1": accuracy.top1})


def baseline(work: Work) -> Outcome:
    """The student trained on the labelled set alone, by which distillation is measured."""
    return _on_labels(work, new_student(work), "overlap/train.arrow", work.recipe.baseline)


def threads_of_training(work: Work, config: LabelTraining) -> int:
    """The threads that the training on labels of the stage `work` computes on."""
    network = work.recipe.network if work.stage == "teacher" else None
    model = new_model(work, network.model, "teacher") if network else new_student(work)
    num_images = config.batch_size // config.accumulate
    return threads_of_step(model, [], config.image_size, num_images)


def _on_labels(work: Work, model: Network, name: str, config: LabelTraining) -> Outcome:
    model.train()
    return train(model, cross_entropy(config.label_smoothing), run_of(work, name, config))


def distill(work: Work) -> Outcome:
    """A new student learns the teacher's outputs on the selection and the labelled images."""
    return _from_teacher(work, new_student(work), "select/train.arrow", work.recipe.distill)


def finetune(work: Work) -> Outcome:
    """The distilled student goes on at a small learning rate on the labelled images alone.

    As published, it still learns the teacher's outputs.
    """
    student = student_of(work, "distill")
    return _from_teacher(work, student, "overlap/train.arrow", work.recipe.finetune)


def _from_teacher(work: Work, student: Network, name: str, config: DistillTraining) -> Outcome:
    """Train `student` on the teacher's outputs for the images `stage/file`; labels are not used.

    The teacher is asked in each step, or its stored outputs are replayed.
    """
    student.train()
    if config.teacher == "replay":
        run = run_of(work, name, config, stored_outputs(work))
        return train(student, replay(config.loss), run)
    objective = distillation([teacher_model(work)], config.loss, config.teacher_batch_norm)
    return train(student, objective, run_of(work, name, config))


def fix(work: Work) -> Outcome:
    """The classifier alone is tuned at a larger resolution, everything else frozen.

    Touvron et al. 2019 (FixRes), as PaddleClas does it: test-time preprocessing on the training
    images.
    """
    config, student = work.recipe.fix, student_of(work, "finetune")
    learning = {id(p) for p in classifier_parameters(student)}  # tensors compare by value
    for parameter in student.parameters():
        parameter.stop_gradient = id(parameter) not in learning
    return train(student, cross_entropy(0.0), run_of(work, "overlap/train.arrow", config))


def eval_data(work: Work, preprocess: Preprocess) -> EvalData:
    """The validation images, seen as `preprocess` says."""
    val, run_time = work.images("data/val.arrow"), work.recipe.run_time
    return EvalData(val, preprocess, run_time.workers, run_time.max_lost)


def run_of(work: Work, name: str, config: TrainConfig, stored: Replay | None = None) -> Run:
    """A training on the images `stage/file`, validated at the resolution of `config`."""
    own = seed_of(work.recipe.seed, work.stage)
    return Run(
        work.images(name),
        eval_data(work, config.preprocess),
        config,
        # The views were labelled under the seed of `distill`, whichever stage replays them.
        augmented_views(work).root_seed if stored else own,
        work.directory,
        work.monitor,
        weights=WEIGHTS,
        save_seconds=work.recipe.run_time.checkpoint_seconds,
        replay=stored,
    )


def train(model: Network, objective: Objective, run: Run) -> Outcome:
    """Train to the end; of several processes each calls this and the first writes the files."""
    an_epoch = len(run.images) // run.config.batch_size
    steps = f"{counted(run.config.epochs, 'epoch')} of {counted(an_epoch, 'step')}"
    run.monitor.note(f"{steps}, {counted(run.config.batch_size, 'image')} a step")
    trained = train_model(model, objective, run)
    metrics = {"top1": trained.history[-1]["top1"], "threads": trained.threads}
    return Outcome(FILES, trained.counts, metrics)


def stored_outputs(work: Work) -> Replay:
    """The teacher's outputs to train from. Raises UserError: as `replayed_labels`."""
    return Replay(replayed_labels(work), work.recipe.label.views)


def new_model(work: Work, model: ModelConfig, role: str) -> Network:
    """A freshly initialised network; the same recipe, seed and `role` give the same weights."""
    paddle.seed(seed_of(work.recipe.seed, role, "init"))  # the global state decides the weights
    return build_model(model.name, num_classes=work.num_classes(), spec=model.spec)


def trained_model(work: Work, model: ModelConfig, weights: Path) -> Network:
    """The network of `model` in eval mode with `weights`, as in `load_state`. Raises UserError: the
    weights are of another architecture or number of classes."""
    network = new_model(work, model, "trained")
    try:
        with settings_named(lambda name: "" if name == "num_classes" else name):
            load_weights(network, weights)
    except UserError as error:
        raise UserError(
            f"{error}\n({model.name} with the {work.num_classes()} classes of the data set was "
            "expected: weights must be of this architecture and of these classes)"
        ) from None
    network.eval()
    return network


def teacher_model(work: Work) -> Network:
    """The teacher, a network, with its weights, in eval mode."""
    assert work.recipe.network is not None, "a recipe is checked for it"
    weights = work.inputs["teacher"].path(WEIGHTS)
    return trained_model(work, work.recipe.network.model, weights)


def new_student(work: Work) -> Network:
    """The student before training; baseline and distill start from the same weights."""
    return new_model(work, work.recipe.student, "student")


def student_of(work: Work, stage: str) -> Network:
    """The student as an earlier stage left it, in eval mode."""
    return trained_model(work, work.recipe.student, work.inputs[stage].path(WEIGHTS))
