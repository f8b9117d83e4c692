"""From a sample to the whole run: each phase grows with the images that it works on.

Stages that work in shards share the cores, or the GPUs, of all hosts; trainings share all GPUs, and
the evaluation has one. A training on the CPU takes the threads that its steps are worth, however
many there are, and all else runs on one host as it did here. What devices exchange in a training is
told as network traffic, not as time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from data_catalog.base.config import UserError, closest
from ppcls_core.dedup.canaries import UNIT
from ppcls_core.dedup.search import INDEX
from ppcls_core.runtime.gpu import num_gpus
from ppcls_core.runtime.threads import max_threads
from tasks.dag import STAGES
from tasks.plan.sample import SEARCHES, Sample
from tasks.plan.timing import EPOCHS, Cost, Phase
from tasks.recipe import STUDENTS, TRAINED, Recipe
from tasks.run.processes import trainings
from tasks.stages.label import COMPARED, compared
from tasks.stages.probe import FITTED

SHARDED = ("dedup", "label", "views")
ON_GPU = ("teacher", "label", "views", *STUDENTS, "evaluate")
ON_ONE = ("evaluate",)  # of these, on one GPU of one host: a model after the other
MERGED = "merged"  # the labelled images and those selected
SEARCHED = "searched"  # the validation images that are searched for
_ROW_BYTES = 100  # of a set's table, which each process maps


@dataclass(frozen=True)
class Machines:
    """Where the run is to be: `cores` and `gpus` of each of `hosts`. `rates`: images a second of
    one GPU by stage, where they are given and not measured."""

    hosts: int
    cores: int
    gpus: int
    rates: Mapping[str, float]

    def check(self) -> None:
        """Raise UserError: a rate of a stage that no GPU computes, or without a GPU."""
        for name in self.rates:
            if name in STAGES and name not in ON_GPU:
                raise UserError(
                    f"--gpu-rate {name}: this stage runs on cores also where there is a GPU; give "
                    f"rates of {', '.join(ON_GPU)}"
                )
            if name not in ON_GPU:
                raise UserError(f"--gpu-rate {name}: no such stage{closest(name, ON_GPU)}")
            if not self.gpus:
                raise UserError(f"--gpu-rate {name}: say how many GPUs a host has: --gpus N")


@dataclass(frozen=True)
class StagePlan:
    """A stage of the whole run: images that it reads, over all epochs and validations; hours of
    cores and of GPUs; `seconds` by the clock; bytes of memory on a host, read, written, and moved
    between hosts. `basis` of the GPU's figure: given, measured, or "" where it runs on cores.
    """

    stage: str
    images: int
    core_hours: float
    gpu_hours: float
    seconds: float
    memory: float
    disk_in: float
    disk_out: float
    network: float
    basis: str


def plan(sample: Sample, machines: Machines) -> list[StagePlan]:
    """The stages of the whole run, in order. Raises UserError: as `Machines.check`."""
    machines.check()
    return [_Estimate(sample, machines, name).plan() for name in sample.stages]


def images_read(recipe: Recipe, sizes: Mapping[str, int], stage: str) -> dict[str, int]:
    """How many images of each set `stage` reads, each as often as it is read; `sizes` by set. The
    first is the set with which the stage's own work grows."""
    train, val, pool = sizes["train"], sizes["val"], sizes["pool"]
    if config := trainings(recipe).get(stage):
        name = {"teacher": "teacher", "distill": MERGED}.get(stage, "train")
        steps = config.epochs * (sizes[name] // config.batch_size)
        validations = math.ceil(config.epochs / config.eval_every)
        return {name: steps * config.batch_size, "val": validations * val}
    if stage == "views":
        views = recipe.label.views * sizes[MERGED]
        return {MERGED: views} if views else {"train": train} if recipe.is_replayed else {}
    is_probed = recipe.network is not None and recipe.network.train is not None
    return {
        "data": {"train": train, "val": val, "pool": pool},
        "overlap": {"train": train, "val": val},
        "dedup": {"pool": pool, "val": val},
        "teacher": {"teacher": sizes["teacher"], "val": val} if is_probed else {"val": val},
        "label": {"pool": pool},
        "evaluate": {"val": val * len(TRAINED)},
    }.get(stage, {})


class _Estimate:
    """One stage of the whole run, from its sample."""

    def __init__(self, sample: Sample, machines: Machines, name: str) -> None:
        self.sample, self.machines, self.name = sample, machines, name
        self.own = sample.stages[name]
        self.recipe, self.config = sample.whole_recipe, trainings(sample.whole_recipe).get(name)
        taken = {**sample.taken, MERGED: sample.stages["select"].result.counts["out"]}
        select, classes = self.recipe.select, sample.num_classes
        added = 0 if select.policy == "none" else min(select.k * classes, sample.whole["pool"])
        whole = {**sample.whole, MERGED: sample.whole["train"] + added}
        self.growth = {name: whole[name] / taken[name] for name in whole}
        self.growth[SEARCHED] = whole["val"] / sample.num_searched
        self.reads = images_read(self.recipe, whole, name)

    def plan(self) -> StagePlan:
        """The stage's figures."""
        machines, gpu, images = self.machines, self._gpu_seconds(), sum(self.reads.values())
        cost = self._on_cores() if gpu is None else self._on_gpus(gpu, images)
        return StagePlan(
            stage=self.name,
            images=images,
            core_hours=cost.core / 3600,
            gpu_hours=(gpu or 0.0) / 3600,
            seconds=cost.wall,
            memory=self._memory(gpu is None),
            disk_in=self._bytes_read(),
            disk_out=self._bytes_written(),
            network=self._bytes_moved() if machines.hosts > 1 else 0.0,
            basis=self._basis(),
        )

    def _basis(self) -> str:
        if not self.machines.gpus or self.name not in ON_GPU:
            return ""
        return "given" if self.name in self.machines.rates else "measured" * (num_gpus() > 0)

    def _gpu_seconds(self) -> float | None:
        """Seconds of one GPU; None where the stage runs on cores."""
        if self._basis() == "given":
            return sum(self.reads.values()) / self.machines.rates[self.name]
        if self._basis() == "measured":
            return sum(p.each.wall * self._units(p) for p in self.own.used.phases)
        return None

    def _on_gpus(self, seconds: float, images: int) -> Cost:
        """The time by the clock is that of the GPUs, or of the cores that load the images."""
        used, machines, load = self.own.used, self.machines, self.own.load * images
        gpus, hosts = (1, 1) if self.name in ON_ONE else (machines.gpus, machines.hosts)
        per_host = max(seconds / gpus, load / machines.cores)
        return used.start + used.end + Cost(per_host / hosts, load)

    def _on_cores(self) -> Cost:
        used = self.own.used
        if self.name == "data":
            times = sum(self.reads.values()) / self.sample.num_listed
            return self._here(used.total) * times
        if self.name == "select":
            seconds = self.sample.selecting * self.sample.whole["pool"]
            return Cost(seconds, seconds)
        cost = self._here(used.start) + Cost(used.end.alone(max_threads()), used.end.core)
        for phase in used.phases:
            cost += self._phase(phase) + self._here(phase.warm_up)
            # What follows these opens an engine, whatever the number of images.
            grows = phase.unit != FITTED and not _is_compared(phase)
            after = phase.after * (self.growth.get(self._set_of(phase), 1.0) if grows else 1.0)
            cost += Cost(min(after.wall, after.core), after.core)  # one thread's
        return cost

    def _here(self, cost: Cost) -> Cost:
        """The cost of work that is led by one thread, or shared by all cores, of this machine."""
        cores = max_threads()
        return Cost(cost.core / cores if self._is_shared() else cost.alone(cores), cost.core)

    def _is_shared(self) -> bool:
        """Whether all cores work on the stage, each by itself."""
        is_measured = self.name == "teacher" and not self.config
        return self.name in (*SHARDED, *SEARCHES) or is_measured

    def _phase(self, phase: Phase) -> Cost:
        num, each = max(0.0, self._units(phase) - phase.begun), phase.each
        if phase.unit == UNIT or (self.name in SEARCHES and phase.unit == "images"):
            each += Cost(0, self._more_search())
        if not self._is_shared():
            return self._here(each) * num
        hosts = 1 if self.name not in SHARDED or _is_compared(phase) else self.machines.hosts
        return Cost(each.core / (hosts * self.machines.cores), each.core) * num

    def _set_of(self, phase: Phase) -> str:
        """The set with which `phase` grows; "" if with none."""
        if phase.unit in (UNIT, "steps") or _is_compared(phase):
            return ""
        if phase.unit == "images indexed":
            return SEARCHED
        if phase.unit in ("models", EPOCHS):
            return "val"
        if self.name == "teacher" and phase.total == self.sample.taken["val"]:
            return "val"
        return next(iter(self.reads), "")

    def _units(self, phase: Phase) -> float:
        """How many things the phase of the whole run works on."""
        growth = self.growth.get(self._set_of(phase), 1.0)
        if phase.unit == UNIT:
            return self.recipe.dedup.canaries
        if _is_compared(phase):
            return len(compared(sum(self.reads.values())))
        if self.name == "overlap" and phase.unit == "images":  # those of both sets, each once
            return self.reads["train"]
        if self.config and phase.unit == "steps":  # as large as the sample's
            images = sum(number for name, number in self.reads.items() if name != "val")
            return images / trainings(self.sample.recipe)[self.name].batch_size
        if self.config and phase.unit == EPOCHS:
            return math.ceil(self.config.epochs / self.config.eval_every) * growth
        return phase.total * growth

    def _more_search(self) -> float:
        """Core seconds an image that search in the whole index takes more than in the sample's."""
        config, slope = self.recipe.dedup, self.sample.search_slope
        roots = (math.sqrt(self.growth[SEARCHED]) - 1) * math.sqrt(self.sample.num_descriptors)
        # Of both mirror states, as if every image were searched in full.
        return slope * roots * 2 * (config.num_queries + config.coarse_features)

    def _memory(self, on_cores: bool) -> float:
        """Bytes a host: as sampled, with larger batches and the whole sets."""
        used = float(self.own.used.memory)
        if self.config and on_cores:
            part = self.config.batch_size / self.config.accumulate
            used *= max(1.0, part / trainings(self.sample.recipe)[self.name].batch_size)
        if self.name in SEARCHES:
            files = self.sample.stages["overlap"].result.files.items()
            index = sum(entry.size for name, entry in files if name.startswith(f"{INDEX}/"))
            used += index * self.growth[SEARCHED]
        return used + _ROW_BYTES * sum(self.sample.whole[name] for name in ("train", "val", "pool"))

    def _bytes_read(self) -> float:
        sizes = {**self.sample.image_bytes, MERGED: self.sample.image_bytes["train"]}
        read = sum(number * sizes[name] for name, number in self.reads.items())
        if self.name == "select":
            files = self.sample.stages["label"].result.files.items()
            read += sum(e.size for n, e in files if n.startswith("shard-")) * self.growth["pool"]
        return read

    def _bytes_written(self) -> float:
        """Rows of tables grow with the images; what else a stage writes stays as large."""
        growing = {"dedup": "pool", "select": MERGED}
        name_of_set = growing.get(self.name, next(iter(self.reads), ""))
        total = 0.0
        for name, entry in self.own.result.files.items():
            rows, grows = _bytes_of_rows(self.own.result.path(name)), name_of_set
            if self.name in SEARCHES and name.startswith(f"{INDEX}/"):
                rows, grows = entry.size, SEARCHED
            elif self.name == "data":
                grows = Path(name).stem
            total += entry.size + rows * (self.growth.get(grows, 1.0) - 1)
        return total

    def _bytes_moved(self) -> float:
        """Bytes between hosts: files of the shared folder, and gradients in a ring of hosts."""
        is_spread = self.name in SHARDED or (self._basis() and self.name not in ON_ONE)
        hosts = self.machines.hosts if is_spread else 1
        moved = (self._bytes_read() + self._bytes_written()) * (hosts - 1) / hosts
        if self.config is not None:
            steps = sum(n for name, n in self.reads.items() if name != "val")
            weights = self.own.result.files["model.pdparams"].size
            moved += 2 * (hosts - 1) * weights * steps / self.config.batch_size
        return moved


def _is_compared(phase: Phase) -> bool:
    """Whether it is a part of the choice of the teacher's precision, which one host makes."""
    return phase.unit.startswith(COMPARED)


def _bytes_of_rows(path: Path) -> int:
    """Bytes of a table's rows, without what a file has once; 0 of other files."""
    if path.suffix == ".arrow":
        return path.stat().st_size
    if path.suffix != ".parquet":
        return 0
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    return sum(g.column(i).total_compressed_size for g in groups for i in range(g.num_columns))
