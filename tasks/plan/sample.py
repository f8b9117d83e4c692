"""A small run of a recipe: its own stages, on a few of its images, in a store of its own.

Of trainings a few steps are run. What is slow is sampled on fewer images, so that a plan takes
minutes whatever the recipe; batches are as large as the recipe's where the sample allows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.base.config import UserError
from data_catalog.base.files import digest_of
from data_catalog.images.columns import Images
from data_catalog.published import published_weights
from data_catalog.sources import PLANTED_SCHEMA
from ppcls_core.data.decode import BadImage, read_image
from ppcls_core.dedup.match.index import DIMENSION, read_search, write_search
from ppcls_core.dedup.search import INDEX
from ppcls_core.engine.config import DistillTraining, Probe, TrainConfig
from ppcls_core.engine.schedules import Cosine
from ppcls_core.labels.select import select
from ppcls_core.labels.shard import open_shard, write_labels
from ppcls_core.models.complexity import count_operations
from ppcls_core.models.registry import ModelConfig, build_model
from ppcls_core.models.weights.files import save_state
from ppcls_core.models.weights.state import state_of
from ppcls_core.runtime.cluster import LOCAL
from ppcls_core.runtime.gpu import num_gpus
from ppcls_core.runtime.monitor import SilentMonitor
from ppcls_core.runtime.randomness import generator
from ppcls_core.runtime.shards import shard_file
from tasks.dag import STAGES
from tasks.plan.timing import Timing, Usage, Used
from tasks.recipe import AnyTeacher, Recipe, TeacherConfig
from tasks.run.counts import are_all_in
from tasks.run.processes import trainings
from tasks.run.session import Session
from tasks.run.store import Result, Store, file_entry
from tasks.stages.data import datasets, image_sets, write_sets
from tasks.stages.teachers import test_view
from tasks.stages.training import run_of, stored_outputs

STAND_IN = "clothes"  # whose images a plan takes where the recipe's are not on this machine
SETS = ("train", "teacher", "val", "pool")
SEARCHES = ("overlap", "dedup")  # in the index of the validation images, which the first makes
SHARE = 10  # of the images of a set one in so many is sampled, within the bounds
LEAST = {"train": 32, "val": 16, "pool": 32}
FEWEST = {"train": 8, "val": 16, "pool": 16}  # of what is slow
MOST = {"train": 160, "val": 64, "pool": 288}
MOST_ON_GPU = {"train": 4096, "val": 1024, "pool": 4096}
# Validation images that are searched for: each of a few would have many of the chance votes, and be
# compared with images that it has nothing to do with.
MOST_SEARCHED = 256
OPERATIONS = 2e12  # of the slowest parts of a sample on the CPU, by `count_operations`
RATED = 8  # times fewer images are sampled where the speed is known
STEPS, MOST_STEPS = 4, 24  # of a training
CANARIES = 12
PER_CLASS = 6  # training images, where a probe's cross-validation needs some of each class
_TILED = 1 << 15  # label rows of which a selection is timed
_QUERIES, _ROUNDS = 600, 4  # descriptors searched for, and how often
_SMALL = 1 << 14  # descriptors of the index in which they are searched for, at the most
_GROWN = 8  # times as large is the index in which they are searched for too
DESCRIPTORS = f"{INDEX}/descriptors.bin"
_READ = 32  # images of which loading is timed


@dataclass(frozen=True)
class StageSample:
    """A stage's run on the sample. `load`: core seconds to read and prepare an image."""

    result: Result
    used: Used
    load: float = 0.0


@dataclass(frozen=True)
class Sample:
    """A recipe's sample: numbers of images by set, here (`taken`) and in full (`whole`); without a
    pool (`has_pool`) the labelled images stand for it.

    `num_searched`: validation images that are searched for, which are more. `image_bytes`: of a
    file, in the mean, by set. `num_listed`: images that the data sets have here. `search_slope`:
    core seconds by which a descriptor's search in the index grows with the root of the number of
    descriptors; `num_descriptors` are in the sample's. `selecting`: seconds a label. `notes`: what
    was taken in the place of what is not here.
    """

    recipe: Recipe  # as it was sampled
    whole_recipe: Recipe
    stages: dict[str, StageSample]
    taken: dict[str, int]
    whole: dict[str, int]
    has_pool: bool
    image_bytes: dict[str, float]
    num_classes: int
    num_listed: int
    num_searched: int
    search_slope: float
    num_descriptors: int
    selecting: float
    notes: list[str]


def take_sample(
    recipe: Recipe,
    given: Mapping[str, int],
    rated: Container[str],
    folder: Path,
    say: Callable[[str], None],
) -> Sample:
    """Run the sample of `recipe` in `folder`. `given`: numbers of images by set, where the data is
    not there yet. `rated`: stages whose speed is known, of which little is run. `say` is told what
    is run.

    Raises UserError: the data is not on this machine and `given` does not say how large it is, or a
    stage fails.
    """
    notes: list[str] = []
    with Usage() as usage:
        timing = Timing(usage)
        found = _images(recipe, given, notes)
        listed = timing.close()
        num_classes = len(found["train"].classes)
        recipe = _with_weights(recipe, num_classes, folder, notes)
        costs = _Operations(recipe, num_classes, rated)
        images = dict(_taken(recipe, found, costs))
        has_pool = not are_all_in(found["pool"], found["train"])
        if not has_pool:
            images["pool"] = images["train"]
        if len(images["val"]) == len(images["teacher"]):  # their phases are told by the number
            images["val"] = images["val"].part(0, len(images["val"]) - 1)
        taken = {name: len(part) for name, part in images.items()}
        whole = {name: given.get(name, len(part)) for name, part in found.items()}
        if "train" in given:
            whole["teacher"] = given["train"]
        session = Session(_sampled(recipe, taken, whole, costs), Store(folder / "store"))
        if not num_gpus():  # a second one would begin while the first labels
            session.engines.most = 1
        labels, random = found["val"].labels, generator(recipe.seed, "plan", "val")
        searched = found["val"].take(_spread(labels, MOST_SEARCHED, random))
        searching = _data(session, {**images, "val": searched})
        data = _data(session, images)
        stages = {"data": StageSample(data, listed)}
        with session.engines.kept():
            for stage in list(STAGES.values())[1:]:
                say(stage.name)
                session.done["data"] = searching if stage.name in SEARCHES else data
                timing = Timing(usage)
                result = session.run(stage, timing)
                stages[stage.name] = StageSample(result, timing.close())
    descriptors = np.fromfile(stages["overlap"].result.path(DESCRIPTORS), np.uint8)
    descriptors = descriptors.reshape(-1, DIMENSION)
    sizes = {name: float(part.table["size"].to_numpy().mean()) for name, part in images.items()}
    return Sample(
        recipe=session.recipe,
        whole_recipe=recipe,
        stages={name: replace(one, load=_load(session, name)) for name, one in stages.items()},
        taken=taken,
        whole=whole,
        has_pool=has_pool,
        image_bytes=sizes,
        num_classes=num_classes,
        num_listed=sum(len(found[name]) for name in ("train", "val", "pool")),
        num_searched=len(searched),
        search_slope=_search_slope(descriptors[:_SMALL], recipe, folder),
        num_descriptors=len(descriptors),
        selecting=_selecting(stages["label"].result, recipe, folder),
        notes=notes,
    )


def _images(recipe: Recipe, given: Mapping[str, int], notes: list[str]) -> dict[str, Images]:
    """The recipe's images by set, or others in their place."""
    try:
        datasets(recipe)
    except UserError as error:
        if missing := {"train", "val", "pool"} - given.keys():
            options = " ".join(f"--{name} N" for name in sorted(missing))
            raise UserError(f"{error}; or say how many images there will be: {options}") from error
        notes.append(
            f"the images are not on this machine: those of the data set '{STAND_IN}' were taken in "
            "their place; larger ones take longer to read"
        )
        stand_in = recipe.data.model_copy(
            update={"labelled": STAND_IN, "pool": STAND_IN, "options": {}, "pool_options": {}}
        )
        found = _images(recipe.model_copy(update={"data": stand_in}), {}, notes)
        names = tuple(map(str, range(_published_classes(recipe))))
        return {name: replace(part, classes=names) for name, part in found.items()}
    return image_sets(recipe, Path(), lambda done, total: None)[0]


def _published_classes(recipe: Recipe) -> int:
    """The classes of the published weights of the student's architecture."""
    row = published_weights().get(recipe.student.name)
    return row.num_classes if row else 1000


def _with_weights(recipe: Recipe, num_classes: int, folder: Path, notes: list[str]) -> Recipe:
    """The recipe with random weights in the place of those that are not on this machine."""

    def change(place: str, teacher: AnyTeacher) -> AnyTeacher:
        if not isinstance(teacher, TeacherConfig) or _is_whole(teacher):
            return teacher
        path = folder / f"{place}.pdparams"
        save_state(path, state_of(_built(teacher.model, num_classes)))
        notes.append(
            f"{place}: its weights are not on this machine, random ones were taken; so whether 16 "
            "bits serve for its labels is not known"
        )
        return teacher.model_copy(update={"weights": str(path)})

    return recipe.with_teachers(change)


def _is_whole(teacher: TeacherConfig) -> bool:
    """Whether it has the weights that it needs."""
    return bool(teacher.weights or (teacher.train and teacher.train.mode == "scratch"))


def _built(model: ModelConfig, num_classes: int) -> Any:
    return build_model(model.name, num_classes=num_classes, spec=model.spec)


class _Operations:
    """The operations that an image costs: of the teacher's answer, and of a step of each training;
    of what is `rated` as much more as fewer of them are sampled."""

    def __init__(self, recipe: Recipe, num_classes: int, rated: Container[str]) -> None:
        self.label, self.steps, network = 0.0, dict[str, float](), recipe.network
        if network is not None:
            self.label = self._count(network.model, num_classes, network.image_size)
        for name, config in trainings(recipe).items():
            model = network.model if network and name == "teacher" else recipe.student
            self.steps[name] = 3 * self._count(model, num_classes, config.image_size)
            if isinstance(config, DistillTraining) and config.teacher == "online":
                self.steps[name] += self.label
            self.steps[name] *= RATED if name in rated else 1
        self.label *= RATED if "label" in rated else 1

    def _count(self, model: ModelConfig, num_classes: int, size: int) -> float:
        return float(count_operations(_built(model, num_classes), size))


def _taken(
    recipe: Recipe, images: Mapping[str, Images], costs: _Operations
) -> Iterator[tuple[str, Images]]:
    """Some images of each set, alike in every call."""
    most, on_gpu = (MOST_ON_GPU, True) if num_gpus() else (MOST, False)
    dearest = max(costs.steps.values())
    fitting = {"train": OPERATIONS / 2 / dearest, "pool": OPERATIONS / max(costs.label, 1)}
    for name, part in images.items():
        kind = "train" if name == "teacher" else name
        num = max(LEAST[kind], min(most[kind], len(part) // SHARE))
        if not on_gpu:
            num = int(min(num, max(FEWEST[kind], fitting.get(kind, num))))
        network = recipe.network
        if name == "teacher" and network and isinstance(network.train, Probe):
            num = max(num, PER_CLASS * len(part.classes))
        yield name, part.take(_spread(part.labels, num, generator(recipe.seed, "plan", name)))


def _spread(labels: np.ndarray, num: int, random: np.random.Generator) -> np.ndarray:
    """Rows of `num` images, of each class as many as of the others as far as it has them."""
    order = random.permutation(len(labels))
    by_class = np.argsort(labels[order], kind="stable")
    grouped = labels[order][by_class]
    ranks = np.empty(len(order), np.int64)
    ranks[by_class] = np.arange(len(order)) - np.searchsorted(grouped, grouped)
    return np.sort(order[np.argsort(ranks, kind="stable")[:num]])


def _sampled(
    recipe: Recipe, taken: Mapping[str, int], whole: Mapping[str, int], costs: _Operations
) -> Recipe:
    """The settings of the sample: short trainings, and batches that it fills."""
    share = taken["pool"] / whole["pool"]
    batch = recipe.label.batch_size if num_gpus() else min(8, recipe.label.batch_size)
    select_config = recipe.select.model_copy(update={"k": max(1, round(recipe.select.k * share))})
    sections: dict[str, Any] = {
        "name": "sample",
        "label": recipe.label.model_copy(update={"batch_size": batch}),
        "dedup": recipe.dedup.model_copy(update={"canaries": min(CANARIES, recipe.dedup.canaries)}),
        "select": select_config,
        # Its folder is of this machine alone.
        "run_time": recipe.run_time.model_copy(update={"cluster": LOCAL, "hosts": 1}),
    }
    for name, config in trainings(recipe).items():
        num = taken["train"]
        if name == "distill":
            num += min(taken["pool"] // 2, select_config.k)
        short = _short(config, num, costs.steps[name], recipe.run_time.devices)
        if name == "teacher":
            assert recipe.network is not None, "it is trained by steps"
            sections[name] = recipe.network.model_copy(update={"train": short})
        else:
            sections[name] = short
    return recipe.model_copy(update=sections)


def _short(config: TrainConfig, num_images: int, operations: float, devices: int) -> TrainConfig:
    """The training `config` on `num_images` images, a few steps of it."""
    batch = config.batch_size // config.accumulate
    if not num_gpus():
        batch = int(min(batch, max(4 * devices, OPERATIONS / STEPS / operations)))
    batch = max(1, min(batch, num_images // 2) // devices) * devices
    fitting = 1.0 * MOST_STEPS if num_gpus() else OPERATIONS / operations / batch
    steps = min(MOST_STEPS, max(STEPS, fitting))
    epochs = -(-int(steps) // (num_images // batch))
    changed = {"epochs": epochs, "batch_size": batch, "accumulate": 1, "eval_every": 1}
    # A rate at which no random network diverges; which one it is costs nothing.
    return config.model_copy(update={**changed, "lr": 1e-4, "schedule": Cosine()})


def _data(session: Session, images: Mapping[str, Images]) -> Result:
    """The result of the stage `data` that lists the sample."""
    counts = {name: len(part) for name, part in images.items()}
    key = digest_of(["sample", counts])
    directory = session.store.directory("data", key)
    directory.mkdir(parents=True, exist_ok=True)
    names = write_sets(directory, images, PLANTED_SCHEMA.empty_table())
    files = {name: file_entry(directory / name, False) for name in names}
    result = Result("data", STAGES["data"].version, key, directory, {}, {}, files, counts)
    result.record["seconds"] = 0.0
    return result


def _load(session: Session, name: str) -> float:
    """Core seconds to read and prepare an image for the stage `name`."""
    recipe = session.recipe
    config, work = trainings(recipe).get(name), session.work(STAGES[name], SilentMonitor())
    if config is None:
        read = {"label": "pool", "views": "pool", "teacher": "val", "evaluate": "val"}.get(name)
        images = read and work.images(f"data/{read}.arrow")
        return _reading(images, test_view(work).preprocess) if images else 0.0
    is_replayed = isinstance(config, DistillTraining) and config.teacher == "replay"
    file = {"teacher": "data/teacher.arrow", "distill": "select/train.arrow"}
    run = run_of(
        work,
        file.get(name, "data/train.arrow"),
        config,
        stored_outputs(work) if is_replayed else None,
    )
    begun = time.process_time()
    num = sum(len(batch.labels) for batch in run.loader.batches(0, 0, 1))
    return (time.process_time() - begun) / num


def _reading(images: Images, prepare: Any) -> float:
    begun, num = time.process_time(), min(_READ, len(images))
    for source in images.sources(range(num)):
        try:
            prepare(read_image(source))
        except BadImage:
            continue
    return (time.process_time() - begun) / num


def _search_slope(small: np.ndarray, recipe: Recipe, folder: Path) -> float:
    """Core seconds that a descriptor's search grows by with the root of the number of descriptors:
    from those of the sample, uint8 [N, DIMENSION], to _GROWN times as many like them."""
    random = generator(0, "plan", "search")
    noise = random.integers(-20, 20, (_GROWN, *small.shape), np.int16)
    large = np.clip(small + noise, 0, 255).astype(np.uint8).reshape(-1, DIMENSION)
    queries = small[random.integers(0, len(small), _QUERIES)].astype(np.float32)
    seconds = []
    for number, descriptors in enumerate((small, large)):
        path = folder / f"search{number}.faiss"
        write_search(descriptors, path, recipe.dedup)
        nearest = read_search(path, descriptors, recipe.dedup)
        nearest(queries, recipe.dedup.num_neighbours)  # the first touches the files
        begun = time.process_time()
        for _ in range(_ROUNDS):
            nearest(queries, recipe.dedup.num_neighbours)
        seconds.append((time.process_time() - begun) / _ROUNDS / _QUERIES)
    roots = np.sqrt(len(large)) - np.sqrt(len(small))
    return float(max(0.0, (seconds[1] - seconds[0]) / roots))


def _selecting(label: Result, recipe: Recipe, folder: Path) -> float:
    """Core seconds to select, a label: of a shard of full size with the sample's labels."""
    table = pq.read_table(label.path(shard_file(0, "labels")))
    tiled = pa.concat_tables([table] * -(-_TILED // len(table))).combine_chunks()
    place, field = table.schema.get_field_index("image_id"), table.schema.field("image_id")
    ids = pa.array(map(str, range(len(tiled))), pa.string())  # each is there once
    tiled = tiled.set_column(place, field, ids.cast(field.type))
    path = folder / "tiled.parquet"
    write_labels(tiled, path)
    begun = time.process_time()
    select([open_shard(path)], recipe.select, SilentMonitor())
    return (time.process_time() - begun) / len(tiled)
