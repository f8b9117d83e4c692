"""Settings of `ppcls train` and `ppcls eval`: one model, its data and its training.

A YAML file of these fields, or one of PaddleClas (`paddleclas`), becomes a `Job`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from data_catalog.base.config import Config, UserError, load_yaml, override, parse, yaml_file
from data_catalog.base.errors import errors_of
from data_catalog.recipes import is_recipe_of_pipeline, known_recipes, near_recipe
from ppcls_core.data.lost import MAX_LOST
from ppcls_core.data.transforms import Preprocess
from ppcls_core.engine.config import DistillTraining, LabelTraining
from ppcls_core.inference.exported import is_exported
from ppcls_core.jobs import paddleclas
from ppcls_core.jobs.paddleclas.recipes import is_recipe, near_recipes, recipe, recipe_name
from ppcls_core.models.registry import ModelConfig, check_image_size
from ppcls_core.models.weights.record import INPUTS, record_of

# Settings that change no weights.
RUN_TIME = {"workers", "log_every", "max_lost", "save_every", "vdl_dir", "topk"}
MAX_SIDE = 4096  # of the images, pixels: beyond it a batch does not fit anywhere


class ImageList(Config):
    """Labelled images: `path label` a line in `list`, the paths relative to `root`."""

    list: str  # the list file
    root: str  # the folder from which its paths start
    delimiter: str | None = None  # between path and label, where it is no white space


class JobTeacher(Config):
    """The network whose outputs the model learns."""

    model: ModelConfig  # the network
    weights: str | None = None  # as for `build_model`; a job without can only be tried


class Job(Config):
    """A training, an evaluation, or both. Paths are relative to the current folder."""

    model: ModelConfig  # the network
    num_classes: int = Field(default=1000, gt=0, le=100_000)  # width of its classifier
    weights: str | None = None  # to start from; a classifier for other classes starts anew
    teacher: JobTeacher | None = None  # whose outputs it learns, with `distill`
    train: ImageList | None = None  # images to learn from
    training: LabelTraining | None = None  # how it learns from labels; or instead
    distill: DistillTraining | None = None  # from the outputs of `teacher`
    val: ImageList | None = None  # images to measure with
    # Of the validation images; by default as large as the training's.
    preprocess: Preprocess = Field(default_factory=lambda known: _tested(known))
    output: str = "output"  # all files go to the folder `output`/NAME OF THE MODEL
    seed: int = 0  # of weights, order and augmentation
    workers: int = Field(default=4, gt=0, le=256)  # threads that decode
    log_every: int = Field(default=10, gt=0)  # steps between lines of the log
    max_lost: float = Field(default=MAX_LOST, ge=0, le=1)  # share of a set that may be unreadable
    # Epochs, counted from 0, between copies of the weights, `folder`/EPOCH/ppcls.pdparams.
    save_every: int | None = Field(default=None, gt=0)
    vdl_dir: str | None = None  # for VisualDL's scalars
    topk: int = Field(default=5, gt=0)  # beside top-1, the share among so many is told

    @model_validator(mode="after")
    def _learns_from_one(self) -> Job:
        if self.training and self.distill:
            raise ValueError("expected one of `training` and `distill`")
        if bool(self.distill) != bool(self.teacher):
            raise ValueError("`distill` and `teacher` go together")
        if self.distill and self.distill.teacher == "replay":
            raise ValueError("`distill.teacher: replay` is for recipes, which label the views")
        return self

    @property
    def shown_topk(self) -> int:
        """`topk`, or 1 where a class is always among so many."""
        return self.topk if self.topk < self.num_classes else 1

    @property
    def learning(self) -> LabelTraining | DistillTraining | None:
        """How the model learns."""
        return self.training or self.distill

    @property
    def is_validated(self) -> bool:
        """Whether its training, if any, measures what it learns."""
        return self.learning is None or self.learning.eval_every > 0

    @property
    def unvalidated(self) -> str:
        """The line in the user's file that switches validation off."""
        return f"{self.key('eval_every')}: 0"

    @property
    def folder(self) -> Path:
        """Where the job's files go."""
        return Path(self.output) / self.model.name

    def key(self, name: str) -> str:
        """The setting `name` as the user's file calls it: a.b of these fields, or of those of
        `learning`. Empty where that file has none."""
        top, learning = name.partition(".")[0], self.learning
        if learning is None or top in type(self).model_fields:
            return name
        if top not in type(learning).model_fields:
            return name
        return f"{'training' if self.training else 'distill'}.{name}"


class PaddleClasJob(Job):
    """A job out of a file in PaddleClas's form."""

    def key(self, name: str) -> str:
        """As PaddleClas calls it."""
        return paddleclas.key_of(super().key(name))

    @property
    def unvalidated(self) -> str:
        """As PaddleClas has it."""
        return "validate: False"


def _tested(known: Mapping[str, Any]) -> Preprocess:
    learning = known.get("training") or known.get("distill")
    return learning.preprocess if learning else Preprocess()


def load_job(path: Path, settings: list[str]) -> Job:
    """The job of the YAML file `path`, ours or PaddleClas's, also without its .yaml, or of the
    recipe of that name, with `settings` (a.b=value) over it.
    Raises UserError: no such file or recipe, unknown keys, wrong values, unknown models, sizes
    below the models' smallest."""
    repeated: list[str] = []
    path = yaml_file(path) or path
    data = read_settings(path, repeated.append)
    if INPUTS in data:
        raise UserError(
            f"{path}: is what a training wrote down of itself, not a configuration. Give the file "
            "or recipe with which it was started, and it goes on: ppcls train -c FILE. To use what "
            f"it learnt give its folder as weights: ppcls infer MODEL --weights {path.parent} IMAGE"
        )
    if paddleclas.is_paddleclas(data):
        # Some published files give a key twice; there the last counts, as in PaddleClas.
        for what in repeated:
            paddleclas.note(str(path), f"{what}; the last counts")
        fields = paddleclas.job_fields(override(data, settings), str(path))
        job = parse(PaddleClasJob, fields, str(path), paddleclas.key_of)
    elif is_recipe_of_pipeline(data):
        raise UserError(
            f"{path}: is a recipe of the pipeline, trained by `ssld run {path}`; `ppcls predict`, "
            "`eval`, `export` and `serve` take the student that it exported last"
        )
    elif repeated:
        raise UserError(f"{path}: {repeated[0]}; keep one")
    else:
        job = parse(Job, override(data, settings), str(path))
    _check(job, path)
    return job


def read_settings(path: Path, on_repeated: Callable[[str], None]) -> dict[str, Any]:
    """The settings of the file `path`, also without its .yaml, or where there is none of the recipe
    of that name; as `load_yaml`."""
    file = yaml_file(path)
    if path.is_dir() and is_exported(path):
        raise UserError(
            f"{path}: is an exported model, which `ppcls predict` and `ppcls serve` take; give the "
            "name of the recipe that made it, or the YAML file of its training"
        )
    if file or (path.exists() and not is_recipe(str(path))):
        return load_yaml(file or path, on_repeated)
    name = recipe_name(str(path))
    if is_recipe(name):
        return recipe(name)
    if of_pipeline := known_recipes().get(name):
        return load_yaml(of_pipeline, on_repeated)
    if name == str(path):
        near = near_recipes(name, near_recipe(name))
        raise UserError(f"'{name}': no such file, and no such recipe{near}")
    return load_yaml(path, on_repeated)


def recorded(weights: Path | None) -> tuple[Path, Job] | None:
    """As `record_of`, a job of its model, number of classes and preprocessing alone in the place of
    the content; None of no weights."""
    found = record_of(weights.expanduser()) if weights else None
    if found is None:
        return None
    path, data = found
    kept = ("model", "num_classes", "preprocess")
    return path, parse(Job, {name: data[name] for name in kept if name in data}, str(path))


def _check(job: Job, path: Path) -> None:
    models = [job.model, *([job.teacher.model] if job.teacher else [])]
    sides = {"preprocess.size": job.preprocess.size}
    if job.learning:
        sides["image_size"] = job.learning.image_size
    for name, side in {**sides, "preprocess.short": job.preprocess.short or 0}.items():
        if side > MAX_SIDE:
            expected = f"got images of {side} pixels, expected at most {MAX_SIDE}"
            raise UserError(f"{path}: {job.key(name)}: {expected}")
    for name, side in sides.items():
        with errors_of(f"{path}: {job.key(name)}"):
            for model in models:
                check_image_size(model, side)
