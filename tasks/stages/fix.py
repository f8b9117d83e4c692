"""fix: the classifier alone is tuned at a larger resolution, everything else frozen.

Touvron et al. 2019 (FixRes), as PaddleClas does it: test-time preprocessing on the training images.
Files: model.pdparams, history.json.
"""

from __future__ import annotations

from ppcls_core.runtime.later import Later
from tasks.run.stage import Stage

STAGE = Stage(
    "fix",
    3,
    ("seed", "student", "fix"),
    ("finetune/model.pdparams", "data/train.arrow", "data/val.arrow"),
    Later("tasks.stages.training:fix"),
)
