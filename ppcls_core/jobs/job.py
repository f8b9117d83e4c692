"""Settings of `ppcls train` and `ppcls eval`: one model, its data and its training.

A YAML file of these fields, or one of PaddleClas (`paddleclas`), becomes a `Job`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from data_catalog.base.config import Config, UserError, load_yaml, override, parse
from data_catalog.base.errors import errors_of
from data_catalog.recipes import is_recipe_of_pipeline
from ppcls_core.data.lost import MAX_LOST
from ppcls_core.data.transforms import Preprocess
from ppcls_core.engine.config import DistillTraining, LabelTraining
from ppcls_core.jobs import paddleclas
from ppcls_core.jobs.paddleclas.recipes import is_recipe, recipe, recipe_name
from ppcls_core.models.registry import ModelConfig, check_image_size

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
    preprocess: Preprocess = Preprocess()  # of the validation images
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
    def learning(self) -> LabelTraining | DistillTraining | None:
        """How the model learns."""
        return self.training or self.distill

    @property
    def folder(self) -> Path:
        """Where the job's files go."""
        return Path(self.output) / self.model.name

    def key(self, name: str) -> str:
        """The setting `name`, a.b of these fields, as the user's file calls it."""
        return name


class PaddleClasJob(Job):
    """A job out of a file in PaddleClas's form."""

    def key(self, name: str) -> str:
        """The setting `name`, a.b of a Job's fields, as PaddleClas calls it."""
        return paddleclas.key_of(name)


def load_job(path: Path, settings: list[str]) -> Job:
    """The job of the YAML file `path`, ours or PaddleClas's, or of the recipe of that name, with
    `settings` (a.b=value) over it.
    Raises UserError: no such file or recipe, unknown keys, wrong values, unknown models, sizes
    below the models' smallest."""
    repeated: list[str] = []
    data = read_settings(path, repeated.append)
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
    """The settings of the file `path` or, where there is none, of the recipe of that name; as
    `load_yaml`."""
    if path.is_file() or (path.exists() and not is_recipe(str(path))):
        return load_yaml(path, on_repeated)
    name = recipe_name(str(path))
    if name == str(path) or is_recipe(name):
        return recipe(name)
    return load_yaml(path, on_repeated)


def _check(job: Job, path: Path) -> None:
    models = [job.model, *([job.teacher.model] if job.teacher else [])]
    sizes = [job.preprocess.size] + ([job.learning.image_size] if job.learning else [])
    largest = max(*sizes, job.preprocess.short or 0)
    if largest > MAX_SIDE:
        raise UserError(f"{path}: got images of {largest} pixels, expected at most {MAX_SIDE}")
    for model in models:
        with errors_of(str(path)):
            check_image_size(model, min(sizes))
