"""A recipe: all that decides what the pipeline makes, from a YAML file and its overrides."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PrivateAttr, Tag, model_validator

from data_catalog.base.config import (
    Config,
    UserError,
    closest,
    closest_path,
    load_yaml,
    override,
    parse,
)
from data_catalog.base.errors import errors_of
from data_catalog.base.files import digest_of
from data_catalog.published import published_weights
from data_catalog.recipes import recipe_path
from ppcls_core.data.lost import MAX_LOST
from ppcls_core.data.transforms import Preprocess
from ppcls_core.dedup.config import DedupConfig
from ppcls_core.dedup.decisions import read_decisions
from ppcls_core.engine.config import (
    DistillTraining,
    FixTraining,
    LabelTraining,
    Probe,
    TeacherTraining,
    TrainConfig,
)
from ppcls_core.inference.sidecar import SIDECAR, read_sidecar
from ppcls_core.labels.config import LabelFileConfig, OnnxConfig, OnnxPreprocess, Weight
from ppcls_core.labels.encoding import NUM_TOP, EncodingName
from ppcls_core.labels.select import SelectConfig
from ppcls_core.models.registry import ModelConfig, check_image_size, spec_of
from ppcls_core.models.weights.files import find_weights, is_here, published_file, published_here
from ppcls_core.runtime.cluster import LOCAL
from tasks.trainings import with_trainings

DISTILLED = ("distill", "finetune", "fix")  # trainings that the student goes through, in order
STUDENTS = ("baseline", *DISTILLED)
TRAINED = ("teacher", *STUDENTS)
STUDENT_SECTIONS = ("student", *STUDENTS)


class DataConfig(Config):
    """The labelled set (train, val) and the pool: names of the catalog, or YAML files."""

    labelled: str  # images with labels: train and val
    pool: str  # images without labels
    options: dict[str, Any] = Field(default={})  # overrides of the labelled entry's fields
    pool_options: dict[str, Any] = Field(default={})  # the same of the pool


PUBLISHED = "published"


def _mode(train: Any) -> str:
    """The tag of a teacher's training."""
    mode = train.get("mode") if isinstance(train, Mapping) else getattr(train, "mode", None)
    return "dict[probe]" if mode == "probe" else "dict[training]"


_Training = Annotated[TeacherTraining, Tag("dict[training]")]
_Probe = Annotated[Probe, Tag("dict[probe]")]


class TeacherConfig(Config):
    """The teacher: its `weights` are taken as they are, or adapted or trained as `train` says."""

    model: ModelConfig  # its network
    weights: str | None = None
    """As in `find_weights`, relative to the recipe; PUBLISHED for those of the model's own name."""
    image_size: int = Field(default_factory=lambda known: _published_size(known), ge=32)
    """Resolution at which it labels; as published by default, else 224."""
    train: Annotated[_Training | _Probe, Discriminator(_mode)] | None = None
    weight: Weight = None  # its share in the mean of several; none: 1

    @model_validator(mode="after")
    def _has_what_its_mode_needs(self) -> TeacherConfig:
        if self.train is None and self.weights is None:
            raise ValueError("give `weights` (a file) or `train` (settings to train it)")
        mode = self.train and self.train.mode
        if self.weights is None and mode not in (None, "scratch"):
            raise ValueError(f"`train.mode: {mode}` needs `weights`, which it adapts")
        if self.weights is not None and mode == "scratch":
            raise ValueError(
                "`weights` and `train` exclude each other, unless `train.mode` is `probe` (a new "
                "classifier) or `finetune` (all of it)"
            )
        return self

    @property
    def preprocess(self) -> Preprocess:
        """How it is tested, and how it sees the images it labels."""
        spec = spec_of(self.model.name, self.model.spec)
        return Preprocess(size=self.image_size, interpolation=spec.interpolation)

    @property
    def title(self) -> str:
        """Its name in a report."""
        return self.model.name


def _published_size(known: Mapping[str, Any]) -> int:
    row = published_weights().get(known["model"].name) if "model" in known else None
    return row.crop if row else 224


def _kind(section: Any) -> str:
    """The tag of a teacher's section, by the key that others do not have."""
    if isinstance(section, list | tuple):
        return "list[teachers]"
    has = section.__contains__ if isinstance(section, Mapping) else partial(hasattr, section)
    return next((f"dict[{key}]" for key in ("onnx", "labels") if has(key)), "dict[model]")


AnyTeacher = TeacherConfig | OnnxConfig | LabelFileConfig
GIVEN = ("weights", "onnx", "labels", "classes")  # settings of files that make up a teacher
_Network = Annotated[TeacherConfig, Tag("dict[model]")]
_Onnx = Annotated[OnnxConfig, Tag("dict[onnx]")]
_Labels = Annotated[LabelFileConfig, Tag("dict[labels]")]
_One = Annotated[_Network | _Onnx | _Labels, Discriminator(_kind)]
_Several = Annotated[tuple[_One, ...], Tag("list[teachers]")]


class OverlapConfig(Config):
    """The labelled images that show a validation image.

    They are searched for and told in any case. They stay by default: published accuracies are of
    models that learnt from them, and labels are dear; the report says what each model reaches
    without those validation images.
    """

    remove: bool = False  # leave them out of all that a teacher or student is trained on


class LabelConfig(Config):
    """How the teacher's outputs are made and kept."""

    batch_size: int = Field(default=64, gt=0)  # images that the teacher is asked at a time
    encoding: EncodingName = "int8"  # see ppcls_core.labels.encoding
    k: int = Field(default=NUM_TOP, gt=0)  # classes that the encoding `topk` keeps
    precision: Literal["auto", "fp32"] = "auto"  # auto: 16 bits where they are fast and agree
    views: int = Field(default=0, ge=0)
    """Augmented views of each training image, for `teacher: replay`; 0: one label an image, as it
    is seen in a test, serves for all its views."""


class RunTime(Config):
    """Settings of the machine, in no key: another machine goes on from the same results.

    `devices` changes the bits of a training, as another machine does: batch norm sees the part of a
    batch that a device has. A result's record says on how many it was trained.
    """

    workers: int = Field(default_factory=lambda: len(os.sched_getaffinity(0)), gt=0)
    """Threads that decode; by default one a core."""
    checkpoint_seconds: float = Field(default=60, gt=0)  # between checkpoints of a training
    devices: int = Field(default=1, gt=0)  # that train: GPUs, or else processes on the CPU
    hosts: int = Field(default=1, gt=0)  # of `cluster` that train as one, with `devices` each
    max_lost: float = Field(default=MAX_LOST, ge=0, le=1)  # share of a set that may be unreadable
    cluster: str = Field(default=LOCAL, pattern=r"^[\w.:-]+$")
    """Who makes shards (dedup, label, views): `local` for this machine, or the head's address."""


class Recipe(Config):
    """A resolved recipe; each section belongs to the stage of its name."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Of its runs and results; by default that of the file."""
    seed: int = 0  # of weights, order and augmentation: equal seeds give equal bits
    shard_size: int = Field(default=32768, gt=0)  # images a shard, the unit of resuming
    data: DataConfig  # what images there are
    overlap: OverlapConfig = OverlapConfig()  # labelled images that show a validation image
    dedup: DedupConfig = DedupConfig()  # the search of the pool for validation images
    teacher: Annotated[_Network | _Onnx | _Labels | _Several, Discriminator(_kind)]
    """Of several the mean of their probabilities, weighted by `weight`."""
    label: LabelConfig = LabelConfig()  # the teacher's outputs for the pool
    select: SelectConfig = SelectConfig()  # the images that the student learns from
    student: ModelConfig  # the network that learns
    distill: DistillTraining  # the student learns the outputs for the selected images
    finetune: DistillTraining  # then for the labelled images alone
    fix: FixTraining  # then its classifier, at a larger resolution
    baseline: LabelTraining  # the student trained on labels alone, to compare
    run_time: RunTime = RunTime()  # what changes speed alone
    _left_out: tuple[str, ...] = PrivateAttr(())

    @property
    def left_out(self) -> tuple[str, ...]:
        """The places of weights that `load_recipes` has left out: `teacher.weights`."""
        return self._left_out

    @property
    def teachers(self) -> dict[str, AnyTeacher]:
        """Each teacher by its place in the recipe: `teacher`, or `teacher.0`, `teacher.1` ..."""
        if isinstance(self.teacher, tuple):
            return {f"teacher.{number}": one for number, one in enumerate(self.teacher)}
        return {"teacher": self.teacher}

    def with_teachers(self, change: Callable[[str, AnyTeacher], AnyTeacher]) -> Recipe:
        """The recipe with what `change` makes of each teacher, given its place, in its place."""
        found = tuple(change(place, teacher) for place, teacher in self.teachers.items())
        whole = found if isinstance(self.teacher, tuple) else found[0]
        return self.model_copy(update={"teacher": whole})

    def without_weights(self, is_missing: Callable[[TeacherConfig], bool]) -> Recipe:
        """The recipe without the weights of those networks; `left_out` of it says which."""

        def change(place: str, teacher: AnyTeacher) -> AnyTeacher:
            if not isinstance(teacher, TeacherConfig) or not is_missing(teacher):
                return teacher
            left_out.append(f"{place}.weights")
            return teacher.model_copy(update={"weights": None})

        left_out = list[str]()
        found = self.with_teachers(change)
        found._left_out = tuple(left_out)
        return found

    @property
    def network(self) -> TeacherConfig | None:
        """The teacher where it is one network of Paddle."""
        return self.teacher if isinstance(self.teacher, TeacherConfig) else None

    @property
    def is_replayed(self) -> bool:
        """Whether a student is trained from the teacher's stored outputs."""
        return "replay" in (self.distill.teacher, self.finetune.teacher)

    @model_validator(mode="after")
    def _views_are_there(self) -> Recipe:
        """Views that are replayed are labelled, and under the same augmentation."""
        if not self.teachers:
            raise ValueError("`teacher`: got an empty list, expected at least one teacher")
        trainings = {"distill": self.distill, "finetune": self.finetune}
        replayed = {n: t for n, t in trainings.items() if t.teacher == "replay"}
        online = [name for name in trainings if name not in replayed]
        if self.network is None and online:
            asking = " and ".join(f"`{name}.teacher: online`" for name in online)
            replay = "{teacher: replay, teacher_batch_norm: running}"
            remedy = " and ".join(f"`{name}: {replay}`" for name in online)
            raise ValueError(
                f"{asking}: the teacher is asked in each step, which one network of Paddle "
                f"(`teacher.model`) alone can answer; set {remedy}, to train from its stored "
                "outputs"
            )
        sees = not any(isinstance(one, LabelFileConfig) for one in self.teachers.values())
        if self.label.views and not sees:
            raise ValueError(
                "`label.views`: a file of `labels` has one row an image and none of its views; "
                "leave `label.views` out: `teacher: replay` then takes the image's one label for "
                "each of its views"
            )
        if self.label.views and not replayed:
            raise ValueError("`label.views` is for `distill.teacher: replay`: set that too")
        for name, training in replayed.items() if self.label.views else ():
            seen = [(t.augmentation, t.image_size) for t in (training, self.distill)]
            if seen[0] != seen[1]:
                raise ValueError(
                    f"`{name}.teacher: replay` needs the augmentation and image_size of `distill`, "
                    "under which the views are labelled"
                )
        return self


def load_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """The recipe `name` with `settings` (`a.b=value`) over it, models and weights checked. Raises
    UserError: as `load_recipes`, and for several students."""
    recipes = load_recipes(name, settings)
    if len(recipes) > 1:
        raise UserError(f"{recipe_path(name)}: has `students`, a recipe with one is expected here")
    return recipes[0]


Lacking = Literal["fetch", "leave published", "leave"]


def load_recipes(
    name: str, settings: Sequence[str] = (), lacking: Lacking = "fetch"
) -> list[Recipe]:
    """The recipe `name`; of one with `students` a recipe each, in order. `lacking` says what
    becomes of a network's weights that are not on this machine: "fetch" downloads published ones,
    "leave published" leaves these out, "leave" all.

    `students` gives by name what a student has different in STUDENT_SECTIONS. All else is common,
    so the results up to the selection are made once. A student's recipe is called RECIPE-NAME.
    Raises UserError: any unknown key, value out of range, unknown model or missing weights file.
    """
    path = recipe_path(name)
    of_students = [one for one in settings if one.startswith(("students.", "students="))]
    common = [setting for setting in settings if setting not in of_students]
    data = override({"name": path.stem, **_whole(load_yaml(path), common)}, of_students)
    students = data.pop("students", None)
    if students is None:
        return [_recipe(override(data, common), path, lacking)]
    recipes = []
    for student, sections in _sections(students, path).items():
        merged = override(_merged(data, sections), common)
        with errors_of(f"student {student}"):
            own = {**merged, "name": f"{data['name']}-{student}"}
            recipes.append(_recipe(own, path, lacking))
    return recipes


def digest_of_recipes(recipes: Iterable[Recipe]) -> str:
    """Digest over all that these recipes say, with the decisions that they name."""
    return digest_of(
        [
            [recipe.model_dump(mode="json"), read_decisions(recipe.dedup.reviewed).digest]
            for recipe in recipes
        ]
    )


def _whole(data: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """The content of a recipe with all its trainings; those that it leaves out are like the
    `distill` that `settings` make of it."""
    of_distill = [setting for setting in settings if setting.startswith(("distill.", "distill="))]
    distill = {"distill": with_trainings(data)["distill"]}
    like = with_trainings(data | override(distill, of_distill))
    return like | data | distill


def _sections(students: Any, path: Path) -> dict[str, dict[str, Any]]:
    if not isinstance(students, dict) or not students:
        raise UserError(f"{path}: students: got {students!r}, expected `NAME: sections` lines")
    for student, sections in students.items():
        if not isinstance(sections, dict):
            raise UserError(f"{path}: students.{student}: got {sections!r}, expected sections")
        for key in sections:
            if key not in STUDENT_SECTIONS:
                near = closest(str(key), STUDENT_SECTIONS)
                raise UserError(f"{path}: students.{student}: '{key}' is not a student's{near}")
    return students


def _merged(data: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `data`, mapping into mapping."""
    result = dict(data)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            # Settings of one model, schedule or optimizer mean nothing to another.
            is_other = "name" in value and below.get("name", value["name"]) != value["name"]
            value = value if is_other else _merged(below, value)
        result[key] = value
    return result


def _recipe(data: Mapping[str, Any], path: Path, lacking: Lacking) -> Recipe:
    required = (name for name, field in Recipe.model_fields.items() if field.is_required())
    try:
        recipe = parse(Recipe, data, str(path))
    except UserError as error:
        if all(name in data for name in required):
            raise
        hint = "`ssld init FOLDER` writes a recipe for your images and this machine"
        raise UserError(f"{error}\n({hint})") from None
    _check_models(recipe, path)
    recipe = _resolve_data(recipe, path.parent)
    recipe = _resolve_teacher(_without_missing(recipe, path, lacking), path)
    return _resolve_reviewed(recipe, path)


def _without_missing(recipe: Recipe, path: Path, lacking: Lacking) -> Recipe:
    """The recipe without those weights of networks that `lacking` leaves out."""

    def is_missing(teacher: TeacherConfig) -> bool:
        if lacking == "fetch" or not teacher.weights:
            return False
        name, given = teacher.model.name, teacher.weights
        row = published_weights().get(name if given == PUBLISHED else given)
        is_left = lacking == "leave" or (row is not None and not row.package)
        here = published_here(name) if given == PUBLISHED else is_here(given, path.parent)
        return is_left and not here

    return recipe.without_weights(is_missing)


def _resolve_data(recipe: Recipe, folder: Path) -> Recipe:
    """Data set files and roots as absolute paths; relative ones start from the recipe's folder."""
    data: dict[str, Any] = {}
    for key in ("labelled", "pool"):
        name = getattr(recipe.data, key)
        data[key] = str(folder / name) if name.endswith((".yaml", ".yml")) else name
    for key in ("options", "pool_options"):
        data[key] = fields = dict(getattr(recipe.data, key))
        if "root" in fields and not str(fields["root"]).startswith("$"):
            fields["root"] = str(folder / Path(str(fields["root"])).expanduser())
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=data)})


def _check_models(recipe: Recipe, path: Path) -> None:
    trainings: dict[str, TrainConfig] = {name: getattr(recipe, name) for name in STUDENTS}
    sizes = {name: training.image_size for name, training in trainings.items()}
    models = {"student": (recipe.student, sizes)}
    for place, teacher in recipe.teachers.items():
        if isinstance(teacher, TeacherConfig):
            own = {place: teacher.image_size}
            if isinstance(teacher.train, TeacherTraining):
                trainings[f"{place}.train"] = teacher.train
                own[f"{place}.train"] = teacher.train.image_size
            models[f"{place}.model"] = teacher.model, own
            if teacher.train and recipe.network is None:
                raise UserError(
                    f"{path}: {place}.train: none of several teachers can be trained here: train "
                    "it by a recipe of its own, and give its weights, model.pdparams in the folder "
                    "that its stage `teacher` says"
                )
    for name, training in trainings.items():
        if not training.eval_every:
            raise UserError(
                f"{path}: {name}.eval_every: got 0, expected 1 or more: a stage tells how good "
                "what it trained is"
            )
    for key, (model, by_section) in models.items():
        with errors_of(f"{path}: {key}"):
            spec_of(model.name, model.spec)
        for name, size in by_section.items():
            with errors_of(f"{path}: {name}.image_size"):
                check_image_size(model, size)


def _resolve_reviewed(recipe: Recipe, path: Path) -> Recipe:
    """The file of decisions as an absolute path."""
    if recipe.dedup.reviewed is None:
        return recipe
    with errors_of(f"{path}: dedup.reviewed"):
        file = _is_file(recipe.dedup.reviewed, path.parent).absolute()
    return recipe.model_copy(update={"dedup": recipe.dedup.model_copy(update={"reviewed": file})})


def _resolve_teacher(recipe: Recipe, path: Path) -> Recipe:
    """The teacher's files as absolute paths: a stage need not know where the recipe lies."""
    return recipe.with_teachers(lambda place, teacher: _resolved(teacher, path, place))


def _resolved(teacher: AnyTeacher, path: Path, place: str) -> AnyTeacher:
    """`teacher` with absolute paths, and of ONNX with what a sidecar.json beside it says."""
    files = {}
    for key, find in {**dict.fromkeys(GIVEN, _is_file), "weights": find_weights}.items():
        if given := getattr(teacher, key, None):
            with errors_of(f"{path}: {place}.{key}"):
                if isinstance(teacher, TeacherConfig) and given == PUBLISHED:
                    files[key] = str(published_file(teacher.model.name))
                else:
                    files[key] = str(find(Path(given), path.parent))
    teacher = teacher.model_copy(update=files)
    if not isinstance(teacher, OnnxConfig):
        return teacher
    sidecar = Path(teacher.onnx).parent / SIDECAR
    if not sidecar.is_file() and teacher.preprocess is None:
        raise UserError(
            f"{path}: {place}.preprocess: is required, as no {SIDECAR} lies beside the file: give "
            "size, and short, mean, std and interpolation where they are not ImageNet's usual ones"
        )
    if sidecar.is_file():
        said = read_sidecar(sidecar)
        own: dict[str, Any] = {**dict(said.preprocess), "mean": said.mean, "std": said.std}
        preprocess = teacher.preprocess or OnnxPreprocess(**own)
        classes = teacher.classes or str(sidecar)
        return teacher.model_copy(update={"preprocess": preprocess, "classes": classes})
    return teacher


def _is_file(path: Path, folder: Path) -> Path:
    path = folder / path.expanduser()
    if not path.is_file():  # opening a FIFO would wait
        near = closest_path(path, Path.is_file)
        raise UserError(f"{path}: no such file{near or '; correct the path'}")
    return path
