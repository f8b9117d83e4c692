"""distill: the student learns the teacher's outputs on the selection and the labelled images.

Files: model.pdparams, history.json.
"""

from __future__ import annotations

from ppcls_core.runtime.later import Later
from tasks.run.stage import Stage

STAGE = Stage(
    "distill",
    3,
    ("seed", "student", "distill"),
    ("select/train.arrow", "data/val.arrow", "teacher/model.pdparams", "views/*"),
    Later("tasks.stages.training:distill"),
)
