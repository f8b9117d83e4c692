"""export: the best student in Paddle's inference format, checked against the network.

Of what distill, finetune and fix leave it is the one with the highest top-1 on the validation
images: a stage may lose what an earlier one had won.

Files: inference.json, inference.pdiparams, sidecar.json (ppcls_core.inference.exported),
student.pdparams.
"""

from data_catalog.base.files import read_json, write_bytes
from ppcls_core.engine.run import HISTORY
from ppcls_core.inference.export import export
from ppcls_core.inference.sidecar import FILES, Sidecar
from ppcls_core.jobs.trained import STUDENT
from tasks.recipe import DISTILLED
from tasks.run.stage import Outcome, Work
from tasks.stages.training import student_of


def run(work: Work) -> Outcome:
    """Export the student as the best of DISTILLED left it, of equals the last."""
    top1 = {name: read_json(work.input(f"{name}/{HISTORY}"))[-1]["top1"] for name in DISTILLED}
    stage = max(reversed(DISTILLED), key=top1.__getitem__)
    found = ", ".join(f"{name} {100 * value:.1f} %" for name, value in top1.items())
    equal = ", of equals the last" * (list(top1.values()).count(top1[stage]) > 1)
    work.monitor.note(f"exported: the student of {stage}, the best on val{equal} ({found})")
    student, classes = student_of(work, stage), work.images("data/train.arrow").classes
    sidecar = Sidecar.of(work.recipe.student, classes, getattr(work.recipe, stage).preprocess)
    deviation = export(student, sidecar, work.directory)
    weights = work.inputs[stage].path("model.pdparams").read_bytes()
    write_bytes(work.path(STUDENT), weights)
    metrics = {"deviation": deviation, "stage": stage}
    return Outcome(files=[*FILES, STUDENT], metrics=metrics)
