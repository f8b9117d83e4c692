"""teacher: given weights taken as they are, or a model trained on labelled images.

Files: model.pdparams, history.json (empty for given weights).
"""

from __future__ import annotations

from pathlib import Path

from data_catalog.base.files import write_json
from tasks.run.stage import Outcome, Work
from tasks.stages.inputs import images
from tasks.stages.models import new_model, trained_model
from tasks.stages.training import FILES, loader_of, train


def run(work: Work) -> Outcome:
    """Adopt or train the teacher."""
    config = work.recipe.teacher
    if config.weights is not None:
        return _adopt(work, Path(config.weights))
    assert config.train is not None
    from ppcls_core.engine.objectives import cross_entropy

    model = new_model(work, config.model, "teacher")
    model.train()
    objective = cross_entropy(config.train.label_smoothing)
    loader = loader_of(work, "data/teacher.arrow", config.train)
    return train(work, model, objective, loader, config.train)


def _adopt(work: Work, weights: Path) -> Outcome:
    from ppcls_core.engine.evaluator import evaluate
    from ppcls_core.models.weights.files import save_state
    from ppcls_core.models.weights.state import state_of

    model = trained_model(work, work.recipe.teacher.model, weights)
    val, workers = images(work, "data/val.arrow"), work.recipe.run_time.workers
    preprocess = work.recipe.teacher.preprocess
    accuracy = evaluate(model, val, preprocess, workers, work.monitor)
    save_state(work.path("model.pdparams"), state_of(model))
    write_json(work.path("history.json"), [])
    return Outcome(FILES, {"in": len(val), "out": accuracy.num_images}, {"top1": accuracy.top1})
