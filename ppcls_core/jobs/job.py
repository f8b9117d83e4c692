"""Settings of `ppcls train` and `ppcls eval`: one model, its data and its training.

A YAML file of these fields, or one of PaddleClas (`paddleclas`), becomes a `Job`.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from data_catalog.base.config import Config, UserError, load_yaml, override, parse
from data_catalog.base.errors import errors_of
from ppcls_core.data.lost import MAX_LOST
from ppcls_core.data.transforms import Preprocess
from ppcls_core.engine.config import DistillTraining, LabelTraining
from ppcls_core.jobs import paddleclas
from ppcls_core.models.registry import ModelConfig, check_image_size

# Settings that change no weights.
RUN_TIME = {"workers", "log_every", "max_lost", "save_every", "vdl_dir"}
MAX_SIDE = 4096  # of the images, pixels: beyond it a batch does not fit anywhere


class ImageList(Config):
    """Labelled images: `path label` a line in `list`, the paths relative to `root`."""

    list: str
    root: str


class JobTeacher(Config):
    """The network whose outputs the model learns."""

    model: ModelConfig
    weights: str | None = None  # as for `build_model`; a job without can only be tried


class Job(Config):
    """A training, an evaluation, or both. Paths are relative to the current folder."""

    model: ModelConfig
    num_classes: int = Field(default=1000, gt=0, le=100_000)
    weights: str | None = None  # to start from; a classifier for other classes starts anew
    teacher: JobTeacher | None = None
    train: ImageList | None = None
    training: LabelTraining | None = None  # how it learns from labels; or instead
    distill: DistillTraining | None = None  # from the outputs of `teacher`
    val: ImageList | None = None
    preprocess: Preprocess = Preprocess()  # of the validation images
    output: str = "output"  # all files go to the folder `output`/NAME OF THE MODEL
    seed: int = 0
    workers: int = Field(default=4, gt=0, le=256)
    log_every: int = Field(default=10, gt=0)  # steps between lines of the log
    max_lost: float = Field(default=MAX_LOST, ge=0, le=1)  # share of a set that may be unreadable
    # Epochs, counted from 0, between copies of the weights, `folder`/EPOCH/ppcls.pdparams.
    save_every: int | None = Field(default=None, gt=0)
    vdl_dir: str | None = None  # for VisualDL's scalars

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


def load_job(path: Path, settings: list[str]) -> Job:
    """The job of the YAML file `path`, ours or PaddleClas's, with `settings` (a.b=value) over it.
    Raises UserError: unknown keys, wrong values, unknown models, sizes below the models'
    smallest."""
    repeated: list[str] = []
    data = load_yaml(path, repeated.append)
    if paddleclas.is_paddleclas(data):
        # Some published files give a key twice; there the last counts, as in PaddleClas.
        for what in repeated:
            paddleclas.note(str(path), f"{what}; the last counts")
        fields = paddleclas.job_fields(override(data, settings), str(path))
    elif repeated:
        raise UserError(f"{path}: {repeated[0]}; keep one")
    else:
        fields = override(data, settings)
    job = parse(Job, fields, str(path))
    _check(job, path)
    return job


def _check(job: Job, path: Path) -> None:
    models = [job.model, *([job.teacher.model] if job.teacher else [])]
    sizes = [job.preprocess.size] + ([job.learning.image_size] if job.learning else [])
    largest = max(*sizes, job.preprocess.short or 0)
    if largest > MAX_SIDE:
        raise UserError(f"{path}: got images of {largest} pixels, expected at most {MAX_SIDE}")
    for model in models:
        with errors_of(str(path)):
            check_image_size(model, min(sizes))
