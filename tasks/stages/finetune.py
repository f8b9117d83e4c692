"""finetune: the distilled student goes on at a small learning rate on the labelled images alone.

As published, it still learns the teacher's outputs. Files: model.pdparams, history.json.
"""

from __future__ import annotations

from ppcls_core.runtime.later import Later
from tasks.run.stage import Stage

STAGE = Stage(
    "finetune",
    3,
    ("seed", "student", "finetune"),
    (
        "distill/model.pdparams",
        "data/train.arrow",
        "data/val.arrow",
        "teacher/model.pdparams",
        "views/*",
    ),
    Later("tasks.stages.training:finetune"),
)
