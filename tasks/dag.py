"""The stages in an order that respects what each reads; their `inputs` are the arrows.

data --+--> teacher ---+
       +--> dedup -----+--> label --> select --> views --> distill --> finetune --> fix --> export
       |                                                                            |
       +--> baseline ---------------------------------------------------------------+--> evaluate
                                                                                         |
                                                                          all of them ---+--> report
"""

from __future__ import annotations

from data_catalog.base.config import UserError, closest
from tasks.run.stage import Stage
from tasks.stages import (
    baseline,
    data,
    dedup,
    distill,
    evaluate,
    export,
    finetune,
    fix,
    label,
    report,
    select,
    teacher,
    views,
)

STAGES: dict[str, Stage] = {
    module.STAGE.name: module.STAGE
    for module in (
        data,
        dedup,
        teacher,
        label,
        select,
        views,
        baseline,
        distill,
        finetune,
        fix,
        evaluate,
        export,
        report,
    )
}


def stage_named(name: str) -> Stage:
    """The stage `name`, or a UserError with the closest name."""
    if name not in STAGES:
        raise UserError(f"no stage '{name}'{closest(name, STAGES)}")
    return STAGES[name]


def needed_for(name: str) -> list[Stage]:
    """The stage `name` and all that it depends on, in order."""
    wanted = {stage_named(name).name}
    for stage in reversed(STAGES.values()):
        if stage.name in wanted:
            wanted.update(stage.upstream)
    return [stage for stage in STAGES.values() if stage.name in wanted]


def following(name: str) -> list[Stage]:
    """The stage `name` and all that depends on it, in order."""
    reached = {stage_named(name).name}
    for stage in STAGES.values():
        if reached.intersection(stage.upstream):
            reached.add(stage.name)
    return [stage for stage in STAGES.values() if stage.name in reached]


OF_STUDENT = {stage.name for name in ("baseline", "views") for stage in following(name)}
"""The stages that several students of a recipe do not have in common."""
