"""A network with its weights, given to a command as a YAML file or by its name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from data_catalog.base.config import YAML, Config, UserError, override, parse, yaml_file
from data_catalog.base.errors import settings_named
from data_catalog.base.files import read_json
from data_catalog.base.words import counted
from data_catalog.images.classes import read_classes
from data_catalog.published import published_weights
from data_catalog.recipes import MANIFEST, near_recipe, newest_images, newest_result
from ppcls_core.data.transforms import Preprocess
from ppcls_core.engine.config import LabelTraining
from ppcls_core.inference.sidecar import SIDECAR, Sidecar, read_sidecar
from ppcls_core.jobs.job import MAX_SIDE, Job, load_job, recorded
from ppcls_core.jobs.paddleclas.recipes import is_recipe
from ppcls_core.models import registry
from ppcls_core.models.weights.state import load_weights

if TYPE_CHECKING:
    from ppcls_core.models.networks.layers import Network

STUDENT = "student.pdparams"  # the weights beside a student that the pipeline has exported
BASELINE = "model.pdparams"  # the weights in the folder of a training of the pipeline
_Record = tuple[Path, Job] | None  # as `recorded` finds it beside the weights
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """Options beside the model's file or name; None and () leave what that says."""

    weights: Path | None = None
    classes: Path | None = None
    size: int | None = None
    settings: tuple[str, ...] = ()
    baseline: bool = False  # of a recipe, the student that was trained on labels alone


class Trained(Config):
    """A network that can be built, and what has to be known to use it."""

    job: Job  # its model, and images as they are to be preprocessed
    weights: Path | None  # as in `find_weights`, without a ~; None: the model's published ones
    classes: tuple[str, ...] = Field(min_length=1)
    recipe: str = ""  # name or file of the pipeline's recipe whose student it is

    @property
    def preprocess(self) -> Preprocess:
        """How images are prepared."""
        return self.job.preprocess

    def network(self) -> Network:
        """In eval mode. Raises UserError: no weights, or not of this model and these classes."""
        name, num_classes = self.job.model.name, len(self.classes)
        if self.weights is None:
            model = registry.build_model(name, num_classes=num_classes, pretrained=True)
        else:
            model = registry.build_model(name, num_classes=num_classes, spec=self.job.model.spec)
            with settings_named(self.job.key):
                load_weights(model, self.weights)
        model.eval()
        return model

    def sidecar(self) -> Sidecar:
        """The sidecar that lies beside it once it is exported."""
        return Sidecar.of(self.job.model, self.classes, self.preprocess)


def find_student(given: str, choice: Choice, note: Callable[[str], None]) -> Trained | None:
    """The student that the recipe `given` of the pipeline exported last, or its `choice.baseline`;
    None where that is no recipe, or a model is called so (of which `note` is told). Raises
    UserError: as `newest_result`, or settings, which a student that is made does not take; no
    recipe, which alone has a baseline."""
    taken = "the model of that name" if is_recipe(given) or given in _models() else ""
    folder = newest_result(given, "baseline" if choice.baseline else "export", note, taken)
    if folder is None:
        if choice.baseline:
            raise UserError(
                f"--baseline: got {given}, expected a recipe of `ssld run`, which has one"
            )
        return None
    if choice.settings:
        raise UserError(
            f"{given}: is a recipe, whose student is made; give {choice.settings[0]} to `ssld run`"
        )
    settings, where = read_json(folder / MANIFEST)["settings"], str(folder / MANIFEST)
    if choice.baseline:
        images = newest_images(given, "train")
        assert images, "a recipe with a result has read some"
        training = parse(LabelTraining, settings["baseline"], where)
        file, classes, preprocess = BASELINE, images.classes, training.preprocess
    else:
        sidecar = read_sidecar(folder / SIDECAR)
        file, classes, preprocess = STUDENT, sidecar.classes, sidecar.preprocess
    names = _class_names(choice, len(classes))
    job = parse(Job, {"model": settings["student"], "num_classes": len(classes)}, where)
    preprocess = _of_size(job.model, preprocess, choice.size)
    return Trained(
        job=job.model_copy(update={"preprocess": preprocess}),
        weights=choice.weights or folder / file,
        classes=names or classes,
        recipe=given,
    )


def _models() -> set[str]:
    """The names of models, and of the weights that are published for them."""
    return {*registry.known_models(), *published_weights()}


def find_trained(given: str, choice: Choice) -> Trained:
    """The model of the YAML file or recipe `given`, or else the one of that name, which a file is
    that lacks its .yaml.

    Without `choice.classes` the classes are called by their numbers.

    Raises UserError: unknown model or setting, no weights named, a size that the model cannot
    take, or another number of class names than classes.
    """
    file = Path(given) if given in _models() else yaml_file(given) or Path(given)
    is_file = file.suffix in YAML or file.is_file() or is_recipe(given)
    if not is_file and given not in _models():
        near = near_recipe(given, _models()) or "; `ppcls models` lists the models"
        raise UserError(f"'{given}': no such model, recipe or YAML file{near}")
    record = recorded(choice.weights)
    if is_file:
        job = load_job(file, list(choice.settings))
    else:
        of_training = _recorded(given, choice, record)
        fields = {"model": {"name": given}, **(of_training or _published(given))}
        names = read_classes(choice.classes) if choice.classes else ()
        classes = {"num_classes": len(names)} if names else {}
        job = parse(Job, override(fields | classes, choice.settings), f"model {given}")
    names = _class_names(choice, job.num_classes)
    weights = _weights(job, choice, is_file)
    if choice.weights is None:
        record = recorded(weights)
    return Trained(
        job=job.model_copy(update={"preprocess": _preprocess(job, choice, record)}),
        weights=weights,
        classes=names or tuple(map(str, range(job.num_classes))),
    )


def _recorded(name: str, choice: Choice, record: _Record) -> dict[str, object]:
    """Spec and classes of the training that left the given weights, if it was of that model;
    of another model is told."""
    if record is None:
        return {}
    path, job = record
    if job.model.name != name:
        _log.warning(f"{path}: the training was of the model {job.model.name}, not of {name}")
        return {}
    if not any(setting.startswith("num_classes=") for setting in choice.settings):
        _log.warning(
            f"{path}: the training was of {counted(job.num_classes, 'class')}, and so is the model"
        )
    return job.model_dump(include={"model", "num_classes", "preprocess"})


def _class_names(choice: Choice, num_classes: int) -> tuple[str, ...]:
    """Those of `choice.classes`, none without. Raises UserError: another number of names."""
    names = read_classes(choice.classes) if choice.classes else ()
    if names and len(names) != num_classes:
        raise UserError(
            f"{choice.classes}: names {counted(len(names), 'class')}, but the model has "
            f"{num_classes}"
        )
    return names


def _published(name: str) -> dict[str, object]:
    """Preprocessing and classes with which the model was published, if it was."""
    row = registry.published_of(name)
    if row is None:
        return {}
    sizes = {"size": row.crop, "short": row.resize_short, "interpolation": row.interpolation}
    return {"preprocess": sizes, "num_classes": row.num_classes}


def _weights(job: Job, choice: Choice, is_file: bool) -> Path | None:
    weights = choice.weights or (Path(job.weights) if job.weights else None)
    if weights is None and is_file:
        raise UserError(
            f"no weights are named: give --weights {job.folder / 'best.pdparams'}, another file, "
            "or the name of published ones (`ppcls download --list`)"
        )
    row = registry.published_of(job.model.name)
    if weights is None and row and job.num_classes != row.num_classes:
        raise UserError(
            f"model {job.model.name}: the published weights are for "
            f"{counted(row.num_classes, 'class')}, asked for {job.num_classes:,}; give --weights "
            "FILE"
        )
    return weights and weights.expanduser()  # of --weights=~/..., which no shell expands


def _preprocess(job: Job, choice: Choice, record: _Record) -> Preprocess:
    """That of the training that left the weights, else the job's, where no setting says otherwise;
    or that of images of `choice.size`, the short side in proportion."""
    found = job.preprocess
    if record and record[1].model.name == job.model.name and not _says_size(job, choice.settings):
        path, found = record[0], record[1].preprocess
        if choice.size is None:
            given = f", not {job.preprocess.size}" if found.size != job.preprocess.size else ""
            _log.warning(f"{path}: it was tested at {found.size} pixels, and so is this{given}")
    return _of_size(job.model, found, choice.size)


def _of_size(model: registry.ModelConfig, found: Preprocess, size: int | None) -> Preprocess:
    """That which is `found`, or that of images of `size`, the short side in proportion."""
    if size is not None and size != found.size:
        short = round(found.short * size / found.size) if found.short else None
        found = found.model_copy(update={"size": size, "short": short})
    if max(found.size, found.short or 0) > MAX_SIDE:
        raise UserError(f"got images of {found.size} pixels, expected at most {MAX_SIDE}")
    registry.check_image_size(model, found.size)
    return found


def _says_size(job: Job, settings: Sequence[str]) -> bool:
    """Whether one of `settings`, a.b=value, decides how images are preprocessed."""
    keys = (job.key("preprocess"), job.key("training.image_size"), job.key("distill.image_size"))
    names = [setting.partition("=")[0] for setting in settings]
    return any(f"{n}.".startswith(f"{k}.") or k.startswith(f"{n}.") for n in names for k in keys)
