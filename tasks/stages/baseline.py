"""baseline: the same student trained on the labelled set alone, what distillation is measured by.

Files: model.pdparams, history.json.
"""

from __future__ import annotations

from ppcls_core.runtime.later import Later
from tasks.run.stage import Stage

STAGE = Stage(
    "baseline",
    3,
    ("seed", "student", "baseline"),
    ("data/train.arrow", "data/val.arrow"),
    Later("tasks.stages.training:baseline"),
)
