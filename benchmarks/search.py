"""How near to a full grid's best does a Bayesian search come with a tenth of its trials?

    ssld run demo     # its student's weights are where the trainings start
    OMP_NUM_THREADS=1 python benchmarks/search.py OUT $SSLD_HOME/store/distill/KEY/model.pdparams

The clothes, shrunk so that a trial costs seconds; the 196 points of `transfer`. The grid is trained
once, by `ppcls search`'s own mechanism. A search is then replayed against that table: it proposes
points as it does in use, and is told what the table has; nothing is trained again, so what is
compared is which points are tried, not the luck of another training. Random search stands beside.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import optuna

from data_catalog.base.files import write_bytes
from data_catalog.recipes import PROJECT
from ppcls_core.jobs.tuning.run import make_search, run_trials
from ppcls_core.jobs.tuning.settings import Sampler, SearchSettings
from ppcls_core.jobs.tuning.study import HyperSearch, next_trial, open_study, rows_of

CLOTHES = PROJECT / "data_catalog" / "clothes"
SHORT = 72  # pixels of the shorter side: the trainings crop 56
GOAL = 0.004  # of top-1: what the manual's eight data sets lose at most
NUM_TRIALS = 19  # a tenth of the grid
NUM_SEEDS, NUM_MANY = 3, 20  # shown one by one, and counted
JOB = """\
model: {name: ResNet18_vd, spec: {depths: [1, 1, 1, 1], width: 8}}
num_classes: 10
weights: student.pdparams
train: {list: train.txt, root: images}
val: {list: val.txt, root: images}
preprocess: {size: 56, short: 64}
workers: 1
training:
  epochs: 1
  batch_size: 32
  image_size: 56
  eval_every: 1
  schedule: {name: CosineWarmup, warmup_epochs: 0}
  augmentation: [{name: RandomCrop, scale: [0.3, 1]}, {name: RandomFlip}]
"""


def prepare(out: Path, weights: Path) -> None:
    """Lay the job, its weights and its shrunk images into `out`."""
    for split in ("train", "val"):
        lines = []
        with tarfile.open(CLOTHES / f"{split}.tar") as tar:
            members = sorted((m for m in tar if m.isfile()), key=lambda member: member.name)
            names = sorted({Path(member.name).parts[0] for member in members})
            for member in members:
                file = tar.extractfile(member)
                assert file
                name = Path(member.name)
                _shrink(file.read(), out / "images" / f"{name.stem}.png")
                lines.append(f"{name.stem}.png {names.index(name.parts[0])}\n")
        write_bytes(out / f"{split}.txt", "".join(lines).encode())
    write_bytes(out / "student.pdparams", weights.read_bytes())
    write_bytes(out / "job.yaml", JOB.encode())


def _shrink(data: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    scale = SHORT / min(image.shape[:2])
    cv2.imwrite(
        str(path), cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    )


def grid_of(out: Path) -> tuple[HyperSearch, dict[tuple[str, ...], float]]:
    """The search over the grid in `out`, and top-1 by point; trained as far as it is not yet."""
    settings = SearchSettings(sampler="grid", prune=False)
    os.chdir(out)
    search = make_search(Path("job.yaml"), [], "transfer", settings, print)
    run_trials(search, len(os.sched_getaffinity(0)), print)
    rows = rows_of(search, open_study(search))
    assert len(rows) == search.space.size
    return search, {row.overrides: row.mean or 0.0 for row in rows}


def replay(search: HyperSearch, table: dict[tuple[str, ...], float], how: Sampler) -> list[float]:
    """Top-1 of each point that a search proposes, in order, as the table has it."""
    found = []
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    with tempfile.TemporaryDirectory() as folder:
        search = replace(search, sampler=how, folder=Path(folder), num_trials=NUM_TRIALS)
        while True:
            with next_trial(search, study) as trial:
                if trial is None:
                    return found
                found.append(table[search.overrides(trial)])
                study.tell(trial, found[-1])


def print_gaps(search: HyperSearch, table: dict[tuple[str, ...], float]) -> None:
    """Print by sampler and seed how far the best found is below the grid's, in points."""
    best = max(table.values())
    values = sorted(table.values())
    print(
        f"grid of {len(table)}: best {100 * best:.2f} %, median "
        f"{100 * values[len(values) // 2]:.2f} %, worst {100 * values[0]:.2f} %; "
        f"{sum(best - v <= GOAL for v in values)} within {100 * GOAL:.1f} points"
    )
    for how in ("bayes", "random"):
        runs = [replay(replace(search, seed=seed), table, how) for seed in range(NUM_MANY)]
        gaps = [best - max(run) for run in runs]
        first = ", ".join(f"{100 * gap:.2f}" for gap in gaps[:NUM_SEEDS])
        share, mean = sum(gap <= GOAL for gap in gaps), 100 * statistics.fmean(gaps)
        print(
            f"{how}, {NUM_TRIALS} trials: {first} points below it from seeds 0 to {NUM_SEEDS - 1}; "
            f"of {NUM_MANY} seeds {share} within {100 * GOAL:.1f}, mean {mean:.2f}"
        )


def main() -> None:
    """Prepare, train the grid, replay, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder for images, trainings and study")
    parser.add_argument("weights", type=Path, help="where the trainings start")
    arguments = parser.parse_args()
    if not (arguments.out / "job.yaml").exists():
        prepare(arguments.out, arguments.weights)
    print_gaps(*grid_of(arguments.out))


if __name__ == "__main__":
    main()
