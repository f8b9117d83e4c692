"""How near to a full grid's best does a Bayesian search come with a tenth of its trials?

    ssld run demo     # its student's weights are where the trainings start
    OMP_NUM_THREADS=1 python benchmarks/search.py OUT $SSLD_HOME/store/distill/KEY/model.pdparams

The clothes, shrunk so that a trial costs seconds; the 196 points of `transfer`. The grid is trained
once, by `ppcls search`'s own mechanism. A search is then replayed against that table: it proposes
points as it does in use, and is told what the table has; nothing is trained again, so what is
compared is which points are tried, not the luck of another training. Random search stands beside.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import cv2
import numpy as np

from data_catalog.base.files import write_bytes
from tasks.recipe import PROJECT

CLOTHES = PROJECT / "data_catalog" / "clothes"
SHORT = 72  # pixels of the shorter side: the trainings crop 56
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
